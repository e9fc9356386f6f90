// The speed test's arithmetic.
import assert from "node:assert/strict";
import { test } from "node:test";
import { web } from "./comfyui.mjs";
import { api, app } from "./comfyui_app.mjs";

const { adviceFor, meanSeconds, median, samplingAlone, speedTest, variant, whatActed, whyNone } = await web("isa_speed_test.js");

test("the median of an even count is the greater of the middle two", () => {
    assert.deepEqual([median([3, 1, 2]), median([4, 1, 3, 2]), median([5])], [2, 3, 5]);
});

const PROMPT = {
    3: { class_type: "LIVEditorAttachISA", inputs: { model: ["1", 0], enabled: true, live_changes: "{}", keep_ratio: 0.5 } },
    1: { class_type: "LIVEditorLoad", inputs: {} },
    5: { class_type: "KSampler", inputs: { model: ["3", 0], seed: 1, latent_image: ["6", 0] } },
    6: { class_type: "EmptyLatent", inputs: {} },
    7: { class_type: "LIVEditorDecodeVideo", inputs: { samples: ["5", 0] } },
    8: { class_type: "SaveVideo", inputs: { video: ["7", 0] } },
    9: { class_type: "KSampler", inputs: { model: ["1", 0], latent_image: ["6", 0] } },
};
const outputsOf = (type) => (type === "KSampler" || type === "EmptyLatent" ? ["LATENT"] : ["OTHER"]);

test("a variant has ISA on or off, no record, the same seed, and leaves the prompt as it was", () => {
    const before = structuredClone(PROMPT);
    const off = variant(PROMPT, false, " ");
    assert.deepEqual(PROMPT, before);
    assert.deepEqual(off[3].inputs, { model: ["1", 0], enabled: false, live_changes: " ", keep_ratio: 0.5 });
    assert.deepEqual(off[5], PROMPT[5]);
    assert.equal(variant(PROMPT, true, "\t")[3].inputs.enabled, true);
});

test("what is sampled ends with the samplers behind Attach ISA: nothing is decoded or saved", () => {
    const alone = samplingAlone(PROMPT, outputsOf);
    assert.deepEqual(Object.keys(alone).sort(), ["1", "3", "5", "6", "isa-speed-test-0"]);
    assert.deepEqual(alone["isa-speed-test-0"], { class_type: "PreviewAny", inputs: { source: ["5", 0] } });
    const { 3: attach, ...without } = PROMPT;
    assert.equal(samplingAlone(without, outputsOf), null);
});

// Which messages a speed test shows, where each step takes so many seconds; isa null: it acts in none.
async function messages(full, isa) {
    const said = [], events = new EventTarget();
    const tell = (name, detail) => events.dispatchEvent(Object.assign(new Event(name), { detail }));
    globalThis.window = { LiteGraph: { registered_node_types: { KSampler: { nodeData: { output: ["LATENT"] } } } } };
    app.graphToPrompt = async () => ({ output: structuredClone(PROMPT), workflow: {} });
    app.extensionManager.toast = { add: (message) => said.push(message) };
    api.addEventListener = (...listener) => events.addEventListener(...listener);
    api.queuePrompt = async (number, { output }) => {
        const on = output[3].inputs.enabled, acted = on && isa !== null;
        const step = acted ? { seconds: isa, density: 0.2, tokens: [180, 180], backend: ["triton", ""] } : { seconds: full, full: { short: 4 } };
        setTimeout(() => {
            for (let at = 0; at < 3; at++) tell("liveditor_isa.run", { type: "step", execution: String(on), ...step });
            tell("execution_success", { prompt_id: String(on) });
        });
        return { prompt_id: String(on) };
    };
    await speedTest([]);
    return said.map(({ severity, detail }) => [severity, detail]);
}

test("a gain is a success, a slowdown and equal times warn and say what to do, that ISA never acted is an error", async () => {
    const [, faster] = await messages(3, 2);
    assert.deepEqual(faster, ["success", "ISA 2.00 s, full attention 3.00 s a step on average: 1.50× as fast."]);
    const [, [severity, slower]] = await messages(2, 4);
    assert.equal(severity, "warn");
    assert.match(slower, /0\.50× as fast\. 360 tokens are too few/);
    assert.equal((await messages(2, 2))[1][0], "warn");
    assert.equal((await messages(2, null))[1][0], "error");
});

test("where ISA is slower, what to do", () => {
    const step = { density: 0.2, tokens: [180, 180] };
    assert.match(adviceFor([{ ...step, backend: ["torch", "Triton is not installed"] }]), /Triton/);
    assert.match(adviceFor([{ ...step, backend: ["torch", "Triton needs a GPU, not 'cpu'"] }]), /^360 tokens are too few/);
    assert.match(adviceFor([{ ...step, backend: ["triton", ""] }]), /^360 tokens are too few/);
    assert.match(adviceFor([{ context: "reused" }]), /context_refresh/);
});

test("the mean counts every step of the whole run, and the first one of each kind as the others of it", () => {
    const step = (seconds, context, density) => ({ seconds, context, density });
    assert.equal(meanSeconds([step(60), step(2), step(4), step(3)]), 3);
    assert.equal(meanSeconds([step(60, "refreshed", 0.2), step(4, "refreshed", 0.2), step(9, "reused", 0.2), step(1, "reused", 0.2)]), 2.5);
    assert.equal(meanSeconds([step(3, "refreshed"), step(4, "refreshed", 0.2), step(2, "reused", 0.2)]), 3, "the only one of its kind");
    assert.equal(meanSeconds([step(7)]), 7);
    const nodes = [step(9), step(3), { ...step(20), node: "2" }, { ...step(3), node: "2" }];
    assert.equal(meanSeconds(nodes), 3, "a second model loads too");
});

test("what acted", () => {
    const full = {}, isa = { density: 0.2 }, reused = { context: "reused" }, computed = { context: "refreshed" };
    assert.deepEqual([[full, isa], [isa, reused], [full, reused], [full, computed]].map(whatActed),
        ["ISA", "ISA with context reuse", "Context reuse", null]);
});

test("why there is nothing to compare", () => {
    assert.match(whyNone([]), /No model call went through/);
    assert.match(whyNone([{ full: { "360 tokens are fewer than min_tokens 12288": 4 } }]), /min_tokens 12288\)\. Lower min_tokens/);
    assert.match(whyNone([{ full: {} }, { full: { "switched off": 1 } }]), /\(switched off\)\. Change that/);
});
