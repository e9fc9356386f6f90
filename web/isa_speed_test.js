// The command that runs the open workflow twice, with full attention and with ISA, and reports the time of each.
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
        const full = await paceOf(variant(output, false, seed), workflow, () => true);
        const isa = await paceOf(variant(output, true, seed), workflow, (step) => step.density !== undefined);
        say("success", t("ISA {isa} s, full attention {full} s per model call: {times}× as fast.", {
            isa: isa.toPrecision(3), full: full.toPrecision(3), times: (full / isa).toFixed(2),
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

// Median seconds of the model calls that count, without the first one, which compiles and loads.
async function paceOf(output, workflow, counts) {
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
    const seconds = steps.filter(counts).map((step) => step.seconds);
    if (!seconds.length) throw new Error(whyNone(steps));
    return median(seconds.slice(seconds.length > 1 ? 1 : 0));
}

export function whyNone(steps) {
    const reason = steps.map((step) => Object.keys(step.full)[0]).find(Boolean);
    if (!reason) return t("No model call went through Attach ISA.");
    const cure = reason.includes("min_tokens") ? t("Lower min_tokens on Attach ISA, or take a longer or larger video.")
        : t("Change that on Attach ISA.");
    return `${t("ISA acted in no model call, so there is nothing to compare: full attention ({reason}).", { reason })} ${cure}`;
}
