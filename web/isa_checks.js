// What would run to the end and give no good edit: looked for in the prompt when it is queued, and said on the page.
import { t } from "./isa_words.js";

export const TINY = "LIVEditor-tiny (included)";
const TINY_MOST = { pixels: 320 * 192, frames: 33 }; // what it was tried at; its card says what it was trained at
const TINY_CFG = [1, 2.5];
const LARGE_CFG = [1, 5];

// Sentences about a prompt in API form, {id: {class_type, inputs}}, without repetition.
export function faultsOf(output) {
    const node = (link) => (Array.isArray(link) ? output[link[0]] : undefined);
    const above = (link, type, seen = new Set()) => {
        const found = node(link);
        if (!found || seen.has(found)) return null;
        seen.add(found);
        if (found.class_type === type) return found;
        return Object.values(found.inputs).map((each) => above(each, type, seen)).find(Boolean) ?? null;
    };
    const faults = new Set();
    for (const { inputs } of Object.values(output)) {
        if (!("latent_image" in inputs) || !("positive" in inputs)) continue; // no sampler
        const loader = above(inputs.model, "LIVEditorLoad");
        const references = above(inputs.positive, "LIVEditorInContextReferences");
        if (!loader) continue;
        if (!references) {
            faults.add(t("The model gets no video to edit: connect positive, negative and latent of In-Context References to the sampler."));
            continue;
        }
        if (!above(inputs.latent_image, "LIVEditorInContextReferences"))
            faults.add(t("The latent does not come from In-Context References: of another size than its video, the edit falls apart."));
        const text = node(references.inputs.positive)?.inputs.text;
        if (typeof text === "string" && !text.trim()) faults.add(t("The instruction is empty: write what to change."));
        const tiny = loader.inputs.diffusion_model === TINY;
        for (const fault of tiny ? sizeFaults(references.inputs, !!above(inputs.model, "WanContextWindowsManual")) : []) faults.add(fault);
        const [least, most] = tiny ? TINY_CFG : LARGE_CFG;
        if (typeof inputs.cfg === "number" && (inputs.cfg < least || inputs.cfg > most))
            faults.add(t("cfg {cfg} is far from what this model is sampled with: take {usual}.", { cfg: inputs.cfg, usual: tiny ? 1.5 : 2.5 }));
    }
    return [...faults];
}

function sizeFaults(inputs, windowed) {
    const { size, length } = inputs;
    const [width, height] = [inputs["size.width"], inputs["size.height"]];
    const large = size !== "custom" || (typeof width === "number" && width * height > TINY_MOST.pixels);
    const long = !windowed && typeof length === "number" && (length === 0 || length > TINY_MOST.frames);
    return [
        large && t("LIVEditor-tiny never saw videos of this size: take custom, 320×176 or less."),
        long && t("LIVEditor-tiny never saw so many frames: take 33 or less, or put Wan Context Windows before Attach ISA."),
    ].filter(Boolean);
}
