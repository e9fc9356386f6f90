// The pack's words in one language: English is in the code, the others are given by isa_text.js, as locales/*/main.json has them.
let words = {};

export function setWords(translated) {
    words = translated;
}

// t("step {step} of {steps}", {step: 3, steps: 20})
export function t(text, values = {}) {
    return (words.LIVEditor?.[text] ?? text).replace(/\{(\w+)\}/g, (braced, name) => values[name] ?? braced);
}

// What a choice of a widget is called, {the value that workflows store: its label}; those that are not listed are called as they are stored.
export const labelsOf = (widget) => words.LIVEditorOptions?.[widget];

const NOTE = "MarkdownNote";

// Gives a workflow that is being opened, and subgraphs in it, the words of another language, if it is a template or the blueprint: its
// note's heading is known. Whatever a user wrote stays, line by line.
export function translate(workflow) {
    const templates = words.LIVEditorTemplates ?? {};
    const subgraphs = workflow?.definitions?.subgraphs ?? [];
    const known = [workflow, ...subgraphs].filter((graph) => translateGraph(graph, templates));
    // A subgraph's node has copies of its inputs' labels.
    const hosts = [workflow, ...subgraphs].flatMap((graph) => graph?.nodes ?? []).filter(({ type }) => known.some((graph) => graph.id === type));
    for (const host of hosts) label(host.inputs, templates);
}

function translateGraph(graph, templates) {
    const nodes = graph?.nodes ?? [];
    const notes = nodes.filter(({ type, widgets_values }) => type === NOTE && typeof widgets_values?.[0] === "string");
    if (!notes.some((note) => note.widgets_values[0].split("\n")[0] in templates)) return false;
    for (const note of notes) note.widgets_values[0] = note.widgets_values[0].split("\n").map((line) => templates[line] ?? line).join("\n");
    for (const node of nodes) if (node.title in templates) node.title = templates[node.title];
    label(graph.inputs, templates);
    return true;
}

function label(inputs, templates) {
    for (const input of inputs ?? []) if (input.label in templates) input.label = templates[input.label];
}
