// The presets and when settings are one of them.
import assert from "node:assert/strict";
import { test } from "node:test";
import { web } from "./comfyui.mjs";

const { PRESETS, matches, ownPresets } = await web("isa_presets.js");

test("the paper's preset has the paper's ratios", () => {
    const { keep_ratio, dense_query_ratio, exact_ratio, sharpness, context_tail, enabled } = PRESETS.Paper.values;
    assert.deepEqual([keep_ratio, dense_query_ratio, exact_ratio], [1 / 8, 1 / 2, 1 / 16]);
    assert.deepEqual([sharpness, context_tail, enabled], ["variance", "drop", true]);
});

test("each preset sets the same settings, says what it is, and matches itself alone", () => {
    const entries = Object.entries(PRESETS);
    const ways = ["dense_query_ratio", "sharpness_threshold", "error_threshold", "segment_top_k"];
    const others = (values) => Object.keys(values).filter((key) => !ways.includes(key)).sort();
    for (const [name, { values, title }] of entries) {
        assert.deepEqual(others(values), others(PRESETS.Paper.values));
        assert.equal(ways.filter((way) => way in values).length, 1);
        assert.ok(title().length > 10);
        const matching = entries.filter(([, other]) => matches(other.values, values)).map(([other]) => other);
        assert.deepEqual(matching, [name]);
    }
});

test("rounding of a slider does not matter, a step of it does", () => {
    const { values } = PRESETS.Paper;
    assert.ok(matches(values, { ...values, keep_ratio: 0.125 + 1e-9 }));
    assert.ok(!matches(values, { ...values, keep_ratio: 0.1251 }));
    assert.ok(!matches(values, { ...values, sharpness: "top_mass" }));
});

test("settings that lack a preset's are not the preset's; what it does not set does not matter", () => {
    const { values } = PRESETS.Balanced;
    const { segment_top_k, ...byThreshold } = values;
    assert.ok(!matches(values, { ...byThreshold, sharpness_threshold: 0.01 }));
    assert.ok(matches({ keep_ratio: 1 }, values));
    assert.ok(!matches(values, null));
});

test("a workflow may bring anything as presets of its own", () => {
    assert.deepEqual(ownPresets({}), {});
    assert.deepEqual(ownPresets({ properties: { isa_presets: null } }), {});
    const mine = { keep_ratio: 0.4 };
    assert.deepEqual(ownPresets({ properties: { isa_presets: { mine, a: null, b: 3, c: "x" } } }), { mine });
});
