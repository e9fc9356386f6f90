// Choices of the pack's widgets, labelled in the page's language. Core translates names and tooltips only. Workflows store the values.
import { app } from "/scripts/app.js";
import { loadWords } from "./isa_text.js";
import { labelsOf } from "./isa_words.js";

function label({ name, type, options }) {
    const labels = labelsOf(name);
    if (!labels) return;
    // In place, because Vue nodes hold these options.
    if (type === "combo") options.getOptionLabel = (value) => labels[value] ?? value ?? "";
    else for (const state of ["on", "off"]) options[state] = labels[options[state]] ?? options[state];
}

app.registerExtension({
    name: "LIVEditor.OptionLabels",
    setup: loadWords, // The page awaits this before it creates nodes.
    nodeCreated(node) {
        if (node.comfyClass?.startsWith("LIVEditor")) node.widgets?.forEach(label);
    },
});
