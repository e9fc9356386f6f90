// The speed test's arithmetic.
import assert from "node:assert/strict";
import { test } from "node:test";
import { web } from "./comfyui.mjs";

const { meanSeconds, median, variant, whatActed, whyNone } = await web("isa_speed_test.js");

test("the median of an even count is the greater of the middle two", () => {
    assert.deepEqual([median([3, 1, 2]), median([4, 1, 3, 2]), median([5])], [2, 3, 5]);
});

test("a variant has ISA on or off, no record, and a new seed, and leaves the prompt as it was", () => {
    const prompt = {
        3: { class_type: "LIVEditorAttachISA", inputs: { enabled: true, live_changes: "{}", keep_ratio: 0.5 } },
        5: { class_type: "KSampler", inputs: { seed: 1, steps: 4 } },
        6: { class_type: "SamplerCustom", inputs: { noise_seed: ["8", 0] } },
    };
    const before = structuredClone(prompt);
    const changed = variant(prompt, false, 99);
    assert.deepEqual(prompt, before);
    assert.deepEqual(changed[3].inputs, { enabled: false, live_changes: "", keep_ratio: 0.5 });
    assert.deepEqual([changed[5].inputs, changed[6].inputs], [{ seed: 99, steps: 4 }, { noise_seed: ["8", 0] }]);
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
