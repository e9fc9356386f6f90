// The presets and when settings are one of them.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
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

const ROOT = new URL("../../../", import.meta.url);
const result = (name) => JSON.parse(readFileSync(new URL(`benchmarks/results/${name}.json`, ROOT), "utf8"));
const only = (rows, wanted) => {
    const found = rows.filter((row) => Object.entries(wanted).every(([key, value]) => row[key] === value));
    assert.equal(found.length, 1, JSON.stringify(wanted));
    return found[0];
};
const FILES = {
    edits: "fidelity-second-edition-h200-2026-12-01",
    reuse: "context-reuse-second-edition-h200-2026-12-01",
    fast: "fidelity-second-edition-h200-2026-11-30",  // with the VAE's decoder as it was before, beside full attention with it
};

test("a preset's quality is what was measured on the weights that come with the pack, at its settings", () => {
    const edits = result(FILES.edits), reuse = result(FILES.reuse), fast = result(FILES.fast);
    const weights = createHash("sha256").update(readFileSync(new URL("weights/liveditor_tiny.safetensors", ROOT))).digest("hex");
    assert.deepEqual([edits.weights, fast.weights, reuse.weights], [{ "stage-one": weights }, { "stage-one": weights }, weights]);
    const edited = (setting, study = edits) => only(study.rows, { setting, task: "all" }).psnr_gt_change;
    const byList = ({ values }, study) => edited(`isa-segment-top-k-${values.exact_ratio}`, study);
    const { context_refresh: fall } = PRESETS.Quality.values;
    const changes = {
        Quality: only(reuse.rows, { attention: "full", clips_of: "held-out", fall }).psnr_gt_change,
        Balanced: byList(PRESETS.Balanced),
        Fast: byList(PRESETS.Fast, fast),
        Paper: edited("isa-paper"),
    };
    for (const [name, change] of Object.entries(changes)) {
        const loss = Math.max(0, -change).toFixed(1);
        assert.deepEqual(PRESETS[name].quality().match(/\d+\.\d+/g), [loss], name);
    }
    const others = Object.keys(PRESETS).filter((name) => !(name in changes));
    assert.deepEqual(others.map((name) => [name, PRESETS[name].quality().match(/\d/)]), [["Exact", null]]);
});

test("what a preset's description says of steps and cost is what was measured", () => {
    const { rows } = result("context-reuse-h200-2026-11-28");
    const computed = (fall, steps) => {
        const shares = new Set(rows.filter((row) => row.fall === fall && row.steps === steps).map((row) => row.refreshed));
        assert.equal(shares.size, 1);
        return Math.round(steps * [...shares][0]);
    };
    for (const name of ["Quality", "Fast"]) {
        const { title, values } = PRESETS[name];
        const said = title().match(/in (\d+) of (\d+) steps, or (\d+) of (\d+)\./).slice(1).map(Number);
        assert.deepEqual(said, [32, 12].flatMap((steps) => [computed(values.context_refresh, steps), steps]), name);
    }
    const costs = result("frontier-h200-2026-11-29").rows.filter(({ tokens, inputs }) => tokens === 65520 && inputs === "structured");
    const cost = (policy, setting) => Math.max(...costs.filter((row) => row.policy === policy && row.setting === String(setting)).map((row) => row.flop_ratio));
    const balanced = cost("segment-top-k", PRESETS.Balanced.values.exact_ratio);
    assert.match(PRESETS.Balanced.title(), /at the cost of Paper,/);
    assert.ok(Math.abs(balanced - cost("isa", "paper")) < 0.02);
    assert.match(PRESETS.Fast.title(), /at less than half of its attention,/);
    assert.ok(cost("segment-top-k", PRESETS.Fast.values.exact_ratio) < balanced / 2);
});
