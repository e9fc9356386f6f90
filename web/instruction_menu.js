// Examples of instructions in the menu of the node that holds one: of what the chosen model understands. Both take English.
import { app } from "/scripts/app.js";
import { TINY } from "./isa_checks.js";
import { control, storeState } from "./isa_graph.js";
import { t } from "./isa_text.js";
import { write } from "./isa_widgets.js";

const OF_TINY = [
    "Make the video look like sunset",
    "Make the video look like night",
    "Make the video look like a pencil sketch",
    "Make the video look like a cartoon",
    "Make the video black and white",
    "Make the colours warmer",
    "Grade the video in teal and orange",
    "Replace the blue square with a yellow star",
    "Remove the red ball",
    "Put the objects in a desert",
];
// One of each kind of edit. What is to stay is said too.
const OF_LARGE = [
    "Replace the grass with deep snow. Keep everything else as it is.",
    "Change the colour of the car to blue. Keep everything else as it is.",
    "Add a red hat to the woman. Keep everything else as it is.",
    "Remove the man on the left. Keep everything else as it is.",
    "Change the background to a beach at sunset. Keep the people as they are.",
    "Make the video look like a watercolour painting.",
    "Put the hat from the reference image on the woman. Keep everything else as it is.",
];

// The text node of an instruction to LIVEditor: the node itself, or the one inside a subgraph's node. And whether the included model gets it.
function instructionOf(node) {
    const nodes = (node.subgraph ?? node.graph)?.nodes ?? [];
    const loader = nodes.find(({ type }) => type === "LIVEditorLoad");
    const encoders = nodes.filter(({ type }) => type === "LIVEditorInContextReferences")
        .map((references) => references.getInputNode(references.inputs.findIndex(({ name }) => name === "positive")));
    const encoder = node.subgraph ? encoders[0] : encoders.find((each) => each === node);
    return loader && encoder?.type === "CLIPTextEncode" ? { encoder, tiny: control(loader, "diffusion_model")?.value === TINY } : null;
}

app.registerExtension({
    name: "LIVEditor.InstructionMenu",
    getNodeMenuItems(node) {
        const found = instructionOf(node);
        if (!found) return [];
        const options = (found.tiny ? OF_TINY : OF_LARGE).map((text) => ({
            content: text,
            callback() {
                write(found.encoder, { text });
                storeState();
            },
        }));
        return [{ content: t("Examples of instructions"), has_submenu: true, submenu: { options } }];
    },
});
