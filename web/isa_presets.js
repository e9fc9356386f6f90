// Presets of Attach ISA. docs/fidelity.md has their measured loss; "Paper" has exactly the paper's ratios.
import { t } from "./isa_words.js";

export const PRESETS = {
    Lossless: {
        title: () => t("Everything exact: full attention through ISA's path, for comparison. Saves nothing."),
        values: { keep_ratio: 1, dense_query_ratio: 1, exact_ratio: 1 },
    },
    Even: {
        title: () => t("Keeps all of the context and no dense queries. Costs what Paper costs; nearer to full attention on LIVEditor-tiny."),
        values: { keep_ratio: 1, dense_query_ratio: 0, exact_ratio: 0.28 },
    },
    Paper: {
        title: () => t("The paper's ratios."),
        values: { keep_ratio: 0.125, dense_query_ratio: 0.5, exact_ratio: 0.0625 },
    },
    Turbo: {
        title: () => t("Like Even, at less than half the cost."),
        values: { keep_ratio: 1, dense_query_ratio: 0, exact_ratio: 0.125 },
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

// The user's presets, which are stored in the workflow. A workflow may contain any value.
export function ownPresets(node) {
    const own = Object.entries(node.properties?.isa_presets ?? {});
    return Object.fromEntries(own.filter(([, values]) => values && typeof values === "object"));
}
