// Finds nodes, their subgraphs and their neighbours.
import { app } from "/scripts/app.js";

const REFERENCES = "LIVEditorInContextReferences";
const SUBGRAPH_INPUT = -10; // core's id for the origin of a subgraph's inputs

export const root = () => app.rootGraph ?? app.graph;

// The node of an execution id: "12:7" is number 7 in the subgraph that number 12 is an instance of.
export function nodeAt(id) {
    let graph = root();
    let node = null;
    for (const part of String(id).split(":")) {
        node = graph?.getNodeById(Number(part)) ?? null;
        graph = node?.subgraph;
    }
    return node;
}

// The page stores the open workflow's state after clicks and keys. A script has to store what it changes.
export function storeState() {
    const workflow = app.extensionManager.workflow?.activeWorkflow;
    const tracker = workflow?.changeTracker;
    if (workflow?.activeState?.id !== root().id) return; // the page is opening another one
    (tracker?.captureCanvasState ?? tracker?.checkState)?.call(tracker);
}

// Whether a node is part of the workflow that is open.
export function isInUse(node) {
    const { graph } = node;
    const known = graph && (graph === root() || root().subgraphs?.get(graph.id) === graph);
    return known && graph.getNodeById(node.id) === node;
}

// The nodes that are instances of a subgraph.
function hostsOf(graph) {
    const graphs = [root(), ...(root().subgraphs?.values() ?? [])];
    return graphs.flatMap((each) => each.nodes).filter((node) => node.subgraph === graph);
}

// How many times a node is part of the workflow: every instance of its subgraph counts.
export function instances(node) {
    return node.graph === root() ? 1 : hostsOf(node.graph).reduce((sum, host) => sum + instances(host), 0);
}

// The widget that holds a node's value: its own, or the promoted one on the subgraph's node. null for a value from another
// node, or one that differs between the subgraph's instances.
export function control(node, name) {
    const widget = node.widgets?.find((each) => each.name === name);
    const input = node.inputs?.find((each) => each.widget?.name === name);
    if (!widget || input?.link == null) return widget ?? null;
    const link = node.graph?.links.get(input.link);
    if (Number(link?.origin_id) !== SUBGRAPH_INPUT) return null;
    const hosts = hostsOf(node.graph);
    const outer = hosts[0]?.inputs[link.origin_slot];
    return hosts.length === 1 && outer ? control(hosts[0], outer.widget?.name ?? outer.name) : null;
}

// Before any run: {tokens: [target, context ...], exact: those that stay exact, about: whether some of it is only usual}. Of the In-Context References
// beside the node; a connected reference counts as an image of the edit's size.
export function tokensAhead(node) {
    const beside = node.graph?.nodes?.find((other) => other.type === REFERENCES);
    const value = (name) => beside && control(beside, name)?.value;
    const usual = value("size") === "closest bucket" ? [960, 544] : [832, 480];
    const [width, height, frames] = [value("size.width") ?? usual[0], value("size.height") ?? usual[1], value("length") || 81];
    const frame = Math.ceil(width / 16) * Math.ceil(height / 16);
    const video = Math.ceil((frames + 3) / 4) * frame;
    const references = beside?.inputs?.filter((input) => input.name.startsWith("references") && input.link != null) ?? [];
    const known = value("size.width") && value("length") && !references.length;
    return { tokens: [video, video, ...references.map(() => frame)], exact: 0, about: !known };
}

// The page's store of a node's outputs.
export const locator = (node) => (node.graph === root() ? String(node.id) : `${node.graph.id}:${node.id}`);
