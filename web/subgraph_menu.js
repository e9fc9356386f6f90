// The menu of a subgraph's node, the blueprint's say: presets of the Attach ISA inside, and Compare of the Decode Video inside.
import { app } from "/scripts/app.js";
import { compare } from "./decode_video.js";
import { storeState } from "./isa_graph.js";
import { PRESETS, ownPresets } from "./isa_presets.js";
import { t } from "./isa_text.js";
import { write } from "./isa_widgets.js";

function use(node, values) {
    write(node, values);
    storeState();
}

function presetsOf(node) {
    const given = Object.entries(PRESETS).map(([name, { values }]) => [t(name), values]);
    return [...given, ...Object.entries(ownPresets(node))].map(([content, values]) => ({ content, callback: () => use(node, values) }));
}

app.registerExtension({
    name: "LIVEditor.SubgraphMenu",
    getNodeMenuItems(host) {
        const inside = (type) => host.subgraph?.nodes.find((node) => node.type === type);
        const isa = inside("LIVEditorAttachISA"), decode = inside("LIVEditorDecodeVideo");
        return [
            isa && { content: t("Presets of Attach ISA"), has_submenu: true, submenu: { options: presetsOf(isa) } },
            decode && { content: t("Compare with the source"), callback: () => compare(decode) },
        ].filter(Boolean);
    },
});
