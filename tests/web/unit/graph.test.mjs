// Where nodes are and what lies around them, in workflows with subgraphs.
import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { web } from "./comfyui.mjs";
import { app } from "./comfyui_app.mjs";

const { control, instances, isInUse, locator, nodeAt } = await web("isa_graph.js");
const { differing } = await web("isa_lines.js");
const { read, schedule, write } = await web("isa_widgets.js");

const INPUT = -10; // core's id for where a subgraph's inputs come from

function graph(id, nodes, links = []) {
    const made = {
        id,
        nodes,
        links: new Map(links.map(([link, origin_id, origin_slot]) => [link, { origin_id, origin_slot }])),
        getNodeById: (wanted) => nodes.find((node) => node.id === wanted),
    };
    for (const node of nodes) node.graph = made;
    return made;
}

const widgets = (values) => Object.entries(values).map(([name, value]) => ({ name, value }));
const attach = (id, values = {}, inputs = []) => ({
    id, type: "LIVEditorAttachISA", inputs,
    widgets: widgets({ enabled: true, keep_ratio: 0.125, routing: "ratio", "routing.dense_query_ratio": 0.5, exact_ratio: 0.0625, ...values }),
});

let inner, host;
beforeEach(() => {
    // The slider keep_ratio is promoted to the subgraph's node, and called "keep" there.
    inner = attach(7, {}, [{ name: "keep_ratio", widget: { name: "keep_ratio" }, link: 1 }]);
    const subgraph = graph("sub", [inner], [[1, INPUT, 0]]);
    host = { id: 12, subgraph, inputs: [{ name: "keep", widget: { name: "keep" } }], widgets: widgets({ keep: 0.3 }) };
    app.rootGraph = graph("root", [host, attach(3)]);
    app.rootGraph.subgraphs = new Map([["sub", subgraph]]);
});

test("execution ids lead into subgraphs", () => {
    assert.equal(nodeAt("12:7"), inner);
    assert.equal(nodeAt("3"), app.rootGraph.nodes[1]);
    for (const id of ["99", "12:99", "3:7", "99:7", ""]) assert.equal(nodeAt(id), null);
});

test("a removed node is not in use, nor one of a removed subgraph", () => {
    assert.ok(isInUse(inner) && isInUse(host));
    const [, removed] = app.rootGraph.nodes.splice(1);
    assert.ok(!isInUse(removed ?? { id: 3, graph: app.rootGraph }));
    app.rootGraph.subgraphs.delete("sub");
    assert.ok(!isInUse(inner));
    assert.ok(!isInUse({ id: 1, graph: null }));
});

test("every instance of a subgraph counts", () => {
    assert.deepEqual([instances(inner), instances(host)], [1, 1]);
    app.rootGraph.nodes.push({ ...host, id: 13 });
    assert.equal(instances(inner), 2);
});

test("outputs are found by a subgraph's own id", () => {
    assert.deepEqual([locator(inner), locator(host)], ["sub:7", "12"]);
});

test("a promoted slider's value is on the subgraph's node, unless there are several", () => {
    assert.equal(control(inner, "keep_ratio"), host.widgets[0]);
    assert.equal(control(inner, "exact_ratio").value, 0.0625);
    assert.equal(control(inner, "absent"), null);
    app.rootGraph.nodes.push({ ...host, id: 13 });
    assert.equal(control(inner, "keep_ratio"), null);
});

test("a value that another node makes has no widget", () => {
    const node = attach(1, {}, [{ name: "keep_ratio", widget: { name: "keep_ratio" }, link: 5 }]);
    app.rootGraph = graph("root", [node, { id: 2 }], [[5, 2, 0]]);
    assert.equal(control(node, "keep_ratio"), null);
    assert.ok(!("keep_ratio" in read(node)));
});

test("settings are read by the server's names, through promoted sliders", () => {
    assert.deepEqual(read(inner), { enabled: true, keep_ratio: 0.3, dense_query_ratio: 0.5, exact_ratio: 0.0625 });
    assert.equal(read({ id: 1 }), null);
    assert.deepEqual(schedule(inner), { least: 0, from: 0, to: 1, dense: "", bypassed: false });
    assert.ok(schedule({ ...inner, mode: 4 }).bypassed && schedule({ ...inner, mode: 2 }).bypassed);
});

test("settings that are written choose the way to route first, and call back where they change something", () => {
    const node = app.rootGraph.nodes[1];
    const called = [];
    for (const widget of node.widgets) widget.callback = () => called.push(widget.name);
    // The page makes the other way's slider when that way is chosen.
    node.widgets.find((widget) => widget.name === "routing").callback = () => {
        called.push("routing");
        node.widgets.find((widget) => widget.name === "routing.dense_query_ratio").name = "routing.sharpness_threshold";
    };
    write(node, { enabled: true, sharpness_threshold: 0.01, keep_ratio: 1 });
    assert.deepEqual(called, ["routing", "routing.sharpness_threshold", "keep_ratio"]);
    assert.deepEqual(differing({ sharpness_threshold: 0.01, keep_ratio: 1 }, read(node)), []);
});
