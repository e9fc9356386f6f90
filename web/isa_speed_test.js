// The command that runs the open workflow twice, with full attention and as it is set, and reports the time of each.
import { app } from "/scripts/app.js";
import { api } from "/scripts/api.js";
import { t } from "./isa_text.js";

const NODE = "LIVEditorAttachISA";

const say = (severity, detail, life) => app.extensionManager.toast.add({ severity, summary: t("ISA speed test"), detail, life });
export const median = (numbers) => numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)];

export async function speedTest() {
    const { output, workflow } = await app.graphToPrompt();
    if (!Object.values(output).some((node) => node.class_type === NODE)) {
        return say("warn", t("This workflow has no Attach ISA node."), 8000);
    }
    say("info", t("The workflow runs twice, first with full attention. You can go on working."), 8000);
    const seed = Math.floor(Math.random() * 2 ** 32);
    try {
        const full = meanSeconds(await stepsOf(variant(output, false, seed), workflow));
        const steps = await stepsOf(variant(output, true, seed), workflow);
        const what = whatActed(steps);
        if (!what) throw new Error(whyNone(steps));
        const mean = meanSeconds(steps);
        say(mean < full ? "success" : "warn", t("{what} {mean} s, full attention {full} s a step on average: {times}× as fast.", {
            what, mean: mean.toPrecision(3), full: full.toPrecision(3), times: (full / mean).toFixed(2),
        }));
    } catch (error) {
        say("error", error.message);
    }
}

// A new seed, or the server would have the result already.
export function variant(output, enabled, seed) {
    const changed = structuredClone(output);
    for (const { class_type, inputs } of Object.values(changed)) {
        if (class_type === NODE) Object.assign(inputs, { enabled, live_changes: "" });
        for (const name of ["seed", "noise_seed"]) if (typeof inputs[name] === "number") inputs[name] = seed;
    }
    return changed;
}

// The steps of a run.
async function stepsOf(output, workflow) {
    const steps = [];
    const listening = new AbortController();
    const on = (name, act) => api.addEventListener(name, act, { signal: listening.signal });
    let execution;
    try {
        await new Promise((resolve, reject) => {
            const ours = (act) => ({ detail }) => (detail.prompt_id ?? detail.execution) === execution && act(detail);
            on("liveditor_isa.run", ours((event) => event.type === "step" && steps.push(event)));
            on("execution_success", ours(resolve));
            on("execution_error", ours((event) => reject(new Error(event.exception_message))));
            on("execution_interrupted", ours(() => reject(new Error(t("Stopped.")))));
            on("reconnected", () => reject(new Error(t("The server does not answer."))));
            api.queuePrompt(0, { output, workflow }).then((answer) => (execution = answer.prompt_id), reject);
        });
    } finally {
        listening.abort();
    }
    if (!steps.length) throw new Error(whyNone(steps));
    return steps;
}

// Seconds of a step on average over the whole run. The first one of each node and kind compiles or loads, so it counts as the
// others of its kind do.
export function meanSeconds(steps) {
    const kinds = {};
    for (const { node, density, context, seconds } of steps) (kinds[`${node} ${density === undefined} ${context}`] ??= []).push(seconds);
    const total = Object.values(kinds).map(([first, ...others]) =>
        others.reduce((sum, each) => sum + each, others.length ? median(others) : first));
    return total.reduce((sum, each) => sum + each) / steps.length;
}

// What made a difference to full attention in some step; null if nothing did.
export function whatActed(steps) {
    const isa = steps.some((step) => step.density !== undefined), reuse = steps.some((step) => step.context === "reused");
    return isa ? (reuse ? t("ISA with context reuse") : "ISA") : reuse ? t("Context reuse") : null;
}

export function whyNone(steps) {
    const reason = steps.map((step) => Object.keys(step.full)[0]).find(Boolean);
    if (!reason) return t("No model call went through Attach ISA.");
    const cure = reason.includes("min_tokens") ? t("Lower min_tokens on Attach ISA, or take a longer or larger video.")
        : t("Change that on Attach ISA.");
    return `${t("ISA acted in no model call, so there is nothing to compare: full attention ({reason}).", { reason })} ${cure}`;
}
