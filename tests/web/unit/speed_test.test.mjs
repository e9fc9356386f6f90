// The speed test's arithmetic.
import assert from "node:assert/strict";
import { test } from "node:test";
import { web } from "./comfyui.mjs";

const { median, variant, whyNone } = await web("isa_speed_test.js");

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

test("why there is nothing to compare", () => {
    assert.match(whyNone([]), /No model call went through/);
    assert.match(whyNone([{ full: { "360 tokens are fewer than min_tokens 12288": 4 } }]), /min_tokens 12288\)\. Lower min_tokens/);
    assert.match(whyNone([{ full: {} }, { full: { "switched off": 1 } }]), /\(switched off\)\. Change that/);
});
