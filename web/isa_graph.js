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

// The file that Load Video gives to the In-Context References above a node: {filename, subfolder, type}, or null.
export function sourceOf(node) {
    const waiting = [node];
    const seen = new Set();
    while (waiting.length) {
        const next = waiting.shift();
        if (seen.has(next)) continue;
        seen.add(next);
        const wanted = next.type === "LIVEditorInContextReferences" ? next.inputs.filter((input) => input.name === "video") : next.inputs ?? [];
        for (const input of wanted) {
            const link = input.link != null && next.graph?.links?.get(input.link);
            const origin = link && next.graph.getNodeById(link.origin_id);
            if (!origin) continue;
            if (next.type === "LIVEditorInContextReferences" && origin.type === "LoadVideo") {
                const name = String(origin.widgets.find((widget) => widget.name === "file").value);
                const cut = name.lastIndexOf("/");
                return { filename: name.slice(cut + 1), subfolder: name.slice(0, Math.max(0, cut)), type: "input" };
            }
            waiting.push(origin);
        }
    }
    return null;
}
