// Presets of Attach ISA; "Paper" has exactly the paper's ratios. quality: one word for the loss that docs/fidelity.md measured, and it.
import { t } from "./isa_words.js";

export const PRESETS = {
    Exact: {
        title: () => t("Everything exact, in every step: for comparison. Saves nothing."),
        quality: () => t("Exact: full attention in every step"),
        // Switched off: with ratios of one ISA would copy what it need not.
        values: { enabled: false, keep_ratio: 1, dense_query_ratio: 1, exact_ratio: 1, context_refresh: 0 },
    },
    Quality: {
        title: () => t("Full attention, with the context computed in 8 of 32 steps, or 6 of 12. On LIVEditor-tiny hardly different from Exact."),
        quality: () => t("Very near: {loss} dB lost on LIVEditor-tiny", { loss: "0.0" }),
        values: { keep_ratio: 1, dense_query_ratio: 1, exact_ratio: 1, context_refresh: 1 },
    },
    Balanced: {
        title: () => t("Exact to the blocks of the target and of each context that get most attention: at the cost of Paper, hardly different from Exact on LIVEditor-tiny; context as in Quality."),
        quality: () => t("Very near: {loss} dB lost on LIVEditor-tiny", { loss: "0.2" }),
        values: { keep_ratio: 1, segment_top_k: true, exact_ratio: 0.28, context_refresh: 1 },
    },
    Fast: {
        title: () => t("Like Balanced, at less than half of its attention, with the context computed in 5 of 32 steps, or 4 of 12."),
        quality: () => t("Near: {loss} dB lost on LIVEditor-tiny", { loss: "0.7" }),
        values: { keep_ratio: 1, segment_top_k: true, exact_ratio: 0.125, context_refresh: 2 },
    },
    Paper: {
        title: () => t("The paper's ratios; context as in Quality."),
        quality: () => t("Far without training for it: {loss} dB lost on LIVEditor-tiny", { loss: "10.7" }),
        values: { keep_ratio: 0.125, dense_query_ratio: 0.5, exact_ratio: 0.0625, context_refresh: 1 },
    },
};

const REST = { enabled: true, sharpness: "variance", context_tail: "drop" };
for (const preset of Object.values(PRESETS)) preset.values = { ...REST, ...preset.values };

// Whether settings are a preset's. Sliders keep four decimals or fewer.
export function matches(preset, values) {
    return !!values && Object.entries(preset ?? {}).every(([name, value]) =>
        typeof value === "number" ? Math.abs(values[name] - value) < 1e-6 : values[name] === value,
    );
}

// What is known of the settings' edits: a preset's, for nobody measured others.
export function qualityOf(values) {
    const preset = Object.values(PRESETS).find((each) => matches(each.values, values));
    return preset?.quality() ?? t("Nobody measured what these settings lose");
}

// The user's presets, which are stored in the workflow. A workflow may contain any value.
export function ownPresets(node) {
    const own = Object.entries(node.properties?.isa_presets ?? {});
    return Object.fromEntries(own.filter(([, values]) => values && typeof values === "object"));
}
