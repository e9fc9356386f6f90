// What would run to the end and give no good edit: looked for in the prompt when it is queued, and said on the page.
import { t } from "./isa_words.js";

export const TINY = "LIVEditor-tiny (included)";
const TINY_MOST = { pixels: 320 * 192, frames: 33 }; // what it was tried at; its card says what it was trained at
const TINY_LEAST = 96 * 96; // pixels; its training had 208×144 at least
const TINY_CFG = [1, 2.5];
const LARGE_CFG = [1, 5];

const REFERENCES = "LIVEditorInContextReferences";
const is = (type) => ({ class_type }) => class_type === type;
const samples = ({ inputs }) => "latent_image" in inputs;

// Sentences about a prompt in API form, {id: {class_type, inputs}}, without repetition.
export function faultsOf(output) {
    const node = (link) => (Array.isArray(link) ? output[link[0]] : undefined);
    // The nearest nodes that are wanted, on each way up. ends: where a way ends before.
    const above = (link, wanted, ends = () => false, seen = new Set()) => {
        const found = node(link);
        if (!found || seen.has(found)) return [];
        seen.add(found);
        if (wanted(found)) return [found];
        return ends(found) ? [] : Object.values(found.inputs).flatMap((each) => above(each, wanted, ends, seen));
    };
    // Each In-Context References that a conditioning went through. What a sampler made, a picture say, is no conditioning.
    const chain = (link, found = new Set()) => {
        for (const each of above(link, is(REFERENCES), samples)) if (!found.has(each)) chain(each.inputs.positive, found.add(each));
        return found;
    };
    const faults = new Set();
    for (const sampler of Object.values(output).filter(samples)) {
        const { latent_image: latent, guider } = sampler.inputs;
        const { model, positive, conditioning, cond1, cfg } = guider ? (node(guider)?.inputs ?? {}) : sampler.inputs;
        const asked = positive ?? conditioning ?? cond1;
        if (!asked) continue;
        const [loader] = above(model, is("LIVEditorLoad"));
        const references = chain(asked);
        if (!references.size) {
            if (loader) faults.add(t("The model gets no video to edit: connect positive, negative and latent of In-Context References to the sampler."));
            continue;
        }
        // Another sampler's latent is looked at with that sampler.
        const refined = above(latent, samples, is(REFERENCES)).length > 0;
        if (!refined && !above(latent, is(REFERENCES)).some((each) => references.has(each)))
            faults.add(t("The latent does not come from In-Context References: of another size than its video, the edit falls apart."));
        const tiny = loader?.inputs.diffusion_model === TINY;
        const windowed = above(model, is("WanContextWindowsManual")).length > 0;
        for (const { inputs } of references) {
            const text = node(inputs.positive)?.inputs.text;
            if (typeof text === "string" && !text.trim()) faults.add(t("The instruction is empty: write what to change."));
            for (const fault of tiny ? sizeFaults(inputs, windowed) : []) faults.add(fault);
        }
        const [least, most] = tiny ? TINY_CFG : LARGE_CFG;
        if (loader && typeof cfg === "number" && (cfg < least || cfg > most))
            faults.add(t("cfg {cfg} is far from what this model is sampled with: take {usual}.", { cfg, usual: tiny ? 1.5 : 2.5 }));
    }
    return [...faults];
}

function sizeFaults(inputs, windowed) {
    const { size, length } = inputs;
    const [width, height] = [inputs["size.width"], inputs["size.height"]];
    const large = size !== "custom" || (typeof width === "number" && width * height > TINY_MOST.pixels);
    const small = size === "custom" && typeof width === "number" && width * height < TINY_LEAST;
    const long = !windowed && typeof length === "number" && (length === 0 || length > TINY_MOST.frames);
    return [
        large && t("LIVEditor-tiny never saw videos of this size: take custom, 320×176 or less."),
        small && t("LIVEditor-tiny never saw videos so small: take custom, 320×176."),
        long && t("LIVEditor-tiny never saw so many frames: take 33 or less, or put Wan Context Windows before Attach ISA."),
    ].filter(Boolean);
}
