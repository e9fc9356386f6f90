// The speed test: samples the open workflow twice, with full attention and as it is set, and says how long a step of each takes. It decodes
// and saves nothing, so the shown edit stays.
import { app } from "/scripts/app.js";
import { api } from "/scripts/api.js";
import { said } from "./isa_server_words.js";
import { t } from "./isa_text.js";

const NODE = "LIVEditorAttachISA";
const tests = new Set(); // executions

// Whether an execution is a speed test's, which runs by its own settings: what is moved meanwhile is for the next run.
export const isTest = (execution) => tests.has(execution);

const say = (severity, detail, life) => app.extensionManager.toast.add({ severity, summary: t("ISA speed test"), detail, life });
export const median = (numbers) => numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)];

// panels: of the workflow's Attach ISA nodes; what was measured is shown on them.
export async function speedTest(panels) {
    const { output, workflow } = await app.graphToPrompt();
    const why = panels.map((panel) => panel.whyNothingActs());
    if (why.length && why.every(Boolean)) return say("warn", `${t("There is nothing to compare.")} ${why[0]}`, 12000);
    if (!Object.values(output).some((node) => node.class_type === NODE)) {
        return say("warn", t("This workflow has no Attach ISA node."), 8000);
    }
    const sampled = samplingAlone(output, (type) => window.LiteGraph.registered_node_types[type]?.nodeData?.output ?? []);
    if (!sampled) return say("warn", t("No sampler gets its model from Attach ISA."), 8000);
    say("info", t("The workflow is sampled twice, first with full attention. Nothing is saved. You can go on working."), 8000);
    try {
        const full = meanSeconds(await stepsOf(variant(sampled, false, spaces()), workflow));
        const steps = await stepsOf(variant(sampled, true, spaces()), workflow);
        const what = whatActed(steps);
        if (!what) throw new Error(whyNone(steps));
        const mean = meanSeconds(steps);
        const line = t("{what} {mean} s, full attention {full} s a step on average: {times}× as fast.", {
            what, mean: mean.toPrecision(3), full: full.toPrecision(3), times: (full / mean).toFixed(2),
        });
        for (const panel of panels) panel.onTested(line, steps);
        if (mean < full) say("success", line);
        else say("warn", `${line} ${adviceFor(steps)}`);
    } catch (error) {
        say("error", error.message);
    }
}

// The part of a prompt that ends with the samplers behind Attach ISA, which show their latents' text and nothing else; null
// without one. outputsOf: a node type's kinds of output.
export function samplingAlone(output, outputsOf) {
    const sources = (id) => Object.values(output[id]?.inputs ?? {}).filter((value) => Array.isArray(value) && value[0] in output).map(([from]) => from);
    const above = (id, seen = new Set([id])) => {
        for (const from of sources(id)) if (!seen.has(from)) above(from, seen.add(from));
        return seen;
    };
    const samplers = Object.keys(output).filter((id) =>
        output[id].class_type !== NODE && outputsOf(output[id].class_type)[0] === "LATENT" && [...above(id)].some((from) => output[from].class_type === NODE));
    if (!samplers.length) return null;
    const kept = new Set(samplers.flatMap((id) => [...above(id)]));
    const alone = Object.fromEntries(Object.entries(output).filter(([id]) => kept.has(id)));
    samplers.forEach((id, index) => (alone[`isa-speed-test-${index}`] = { class_type: "PreviewAny", inputs: { source: [id, 0] } }));
    return alone;
}

// The time, written in spaces and tabs: no text to the node, and a new input to the server, which has no result of it yet.
const spaces = () => Date.now().toString(2).replaceAll("0", " ").replaceAll("1", "\t");

// The same seed and the same everything but ISA. blank: for live_changes, so that no record is repeated.
export function variant(output, enabled, blank) {
    const changed = structuredClone(output);
    for (const { class_type, inputs } of Object.values(changed)) {
        if (class_type === NODE) Object.assign(inputs, enabled ? { live_changes: blank } : { enabled, live_changes: blank });
    }
    return changed;
}

const WITHOUT_GPU = /^Triton needs a GPU/; // as the server writes it

// What to do where ISA is slower.
export function adviceFor(steps) {
    const { backend, tokens, exact = 0 } = steps.findLast((step) => step.density !== undefined) ?? {};
    if (!backend) return t("Set context_refresh to 0: its reuse gains nothing here.");
    const count = (tokens.reduce((sum, part) => sum + part) + exact).toLocaleString("en");
    return backend[0] === "torch" && !WITHOUT_GPU.test(backend[1]) ? t("Install Triton, or bypass Attach ISA: on PyTorch alone it can be slower.")
        : t("{count} tokens are too few for ISA to gain: raise min_tokens above that, or edit a longer or larger video.", { count });
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
            api.queuePrompt(0, { output, workflow }).then((answer) => tests.add((execution = answer.prompt_id)), reject);
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
    return `${t("ISA acted in no model call, so there is nothing to compare: full attention ({reason}).", { reason: said(reason) })} ${cure}`;
}
