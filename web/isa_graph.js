// Where a node is, and how long its sequence will be.

// The node of an execution id: "12:7" is number 7 in the subgraph that number 12 is an instance of.
export function nodeAt(app, id) {
    let graph = app.rootGraph ?? app.graph;
    let node = null;
    for (const part of String(id).split(":")) {
        node = graph?.getNodeById(Number(part)) ?? null;
        graph = node?.subgraph;
    }
    return node;
}

// [target, context] in tokens before any run: of the In-Context References beside the node, else of 81 frames of 832×480.
export function tokensAhead(node) {
    const beside = node.graph?.nodes?.find((other) => other.type === "LIVEditorInContextReferences");
    const value = (name) => beside?.widgets?.find((widget) => widget.name === name)?.value;
    const [width, height, frames] = [value("size.width") ?? 832, value("size.height") ?? 480, value("length") || 81];
    const tokens = Math.ceil((frames + 3) / 4) * Math.ceil(width / 16) * Math.ceil(height / 16);
    return [tokens, tokens];
}
