// What the panel says of settings and steps.
import assert from "node:assert/strict";
import { test } from "node:test";
import { web } from "./comfyui.mjs";

const { costOf, differing, duration, estimatedCost, listed, percent, stepLines, timing } = await web("isa_lines.js");

const PAPER = { enabled: true, keep_ratio: 0.125, dense_query_ratio: 0.5, exact_ratio: 0.0625 };
const { dense_query_ratio, ...REST } = PAPER;
const BY_THRESHOLD = { ...REST, sharpness_threshold: 0.01 };
const SETTINGS = { values: PAPER, tokens: [180, 180], about: false, measured: null, least: 0, from: 0, to: 1, dense: "" };
const cost = (changed) => costOf({ ...SETTINGS, ...changed });

test("shares have one decimal below ten percent", () => {
    const shares = [[0, "0.0 %"], [0.0042, "0.4 %"], [0.0994, "9.9 %"], [0.0995, "10 %"], [0.1, "10 %"], [0.124, "12 %"], [1, "100 %"], [1.2, "120 %"]];
    for (const [share, text] of shares) assert.equal(percent(share), text);
});

test("what differs is named in the order of the node's settings, and only what both have", () => {
    assert.deepEqual(differing(PAPER, { exact_ratio: 0.5, keep_ratio: 1, enabled: true, block_size: 3 }), ["keep_ratio", "exact_ratio"]);
    assert.deepEqual(differing(PAPER, BY_THRESHOLD), []);
    assert.equal(listed({ keep_ratio: 1, exact_ratio: 0.5 }, ["keep_ratio", "exact_ratio"]), "keep_ratio 1, exact_ratio 0.5");
    assert.equal(listed({}, []), "");
});

test("fewer tokens than min_tokens attend in full", () => {
    const { share, text, title, idle } = cost({ least: 12288 });
    assert.ok(share === 1 && idle);
    assert.equal(text, "Full attention: 360 tokens, fewer than min_tokens 12288");
    assert.match(title, /Lower min_tokens/);
    assert.equal(cost({ least: 360 }).text, undefined, "as many as min_tokens are enough");
});

test("ratios are for the server to estimate", () => {
    const asked = cost({ tokens: [32760, 32760] });
    assert.deepEqual(asked, { total: "65,520", title: "" });
    assert.equal(cost({ tokens: [32760, 32760], exact: 80 }).total, "65,600", "text and sound count too");
    assert.deepEqual(estimatedCost({ flop_ratio: 0.234 }, asked), {
        share: 0.234, text: "23 % of full attention's arithmetic, 65,520 tokens", title: "",
    });
    assert.deepEqual(estimatedCost({ flop_ratio: 0.234, reused: 0.117 }, asked), {
        share: 0.234, text: "23 % of full attention's arithmetic (12 % in reuses), 65,520 tokens", title: "",
    });
    assert.deepEqual(estimatedCost({ error: "The server does not answer." }, asked), {
        share: 0, text: "The server does not answer.", title: "",
    });
    assert.equal(cost({ about: true }).total, "about 360");
});

test("limits of the schedule are in the title", () => {
    const limited = { from: 0.1, to: 0.5, dense: "0-1,-1" };
    assert.deepEqual(cost(limited).title.split("\n"), [
        "Between start_percent 0.1 and end_percent 0.5 alone; full attention before and after.",
        "Not in dense_blocks 0-1,-1, which attend in full.",
    ]);
    assert.equal(cost({ bypassed: true, least: 12288 }).text, "Full attention: this node is bypassed or muted");
    const off = cost({ ...limited, values: { ...PAPER, enabled: false } });
    assert.deepEqual(off, { share: 1, idle: true, text: "Full attention: ISA is switched off", title: "" });
});

test("what a threshold costs is known from a run with the same settings", () => {
    assert.deepEqual(cost({ values: BY_THRESHOLD }), { share: 0, text: "By threshold: depends on the video, 360 tokens", title: "" });
    const measured = { flop_ratio: 0.3, values: { ...BY_THRESHOLD } };
    assert.equal(cost({ values: BY_THRESHOLD, measured }).text, "By threshold: 30 % of full attention's arithmetic measured, 360 tokens");
    assert.equal(cost({ values: BY_THRESHOLD, measured }).share, 0.3);
    const moved = { ...BY_THRESHOLD, keep_ratio: 1 };
    assert.match(cost({ values: moved, measured }).text, /depends on the video/);
});

const ROW = { step: 2, so_far: [1, 4], tokens: [180, 180], full: {}, pace: { isa: 0.12345 }, density: 0.25, kept: 0.125, flop_ratio: 0.3, backend: ["torch", "no GPU"] };

test("a run is timed by its own evaluations, of which the first one loads", () => {
    assert.deepEqual(timing({ step: 0, so_far: [9, 9] }, 4), { pace: 9, left: 27, total: 9 });
    assert.deepEqual(timing({ step: 2, so_far: [9, 15] }, 5), { pace: 3, left: 6, total: 15 });
    assert.deepEqual([0.123, 9.96, 59.6, 61, 3600].map(duration), ["0.12 s", "10 s", "1 min 0 s", "1 min 1 s", "60 min 0 s"]);
});

test("a step in which ISA acted", () => {
    assert.deepEqual(stepLines(ROW, { steps: 24 }), [
        "step 3 of 24: 1.5 s a step, about 32 s left", "ISA on torch: arithmetic 30 %, kept context 13 %",
    ]);
    assert.deepEqual(stepLines(ROW, null), ["1.5 s a step, 4.0 s in all", "last step: ISA on torch: arithmetic 30 %, kept context 13 %"]);
    const partly = stepLines({ ...ROW, full: { "dense_blocks 0-1": 2 }, pace: { isa: 1.5, full: 20 } }, null);
    assert.deepEqual(partly.slice(2), ["this run's ISA 1.50 s, full 20.0 s a model call: 13.33× as fast", "partly full attention (dense_blocks 0-1)"]);
});

test("a step says whether it reused the context, where contexts are reused", () => {
    const reused = { ...ROW, context: "reused", reused_pace: 0.0625, context_held: [0, 124e9] };
    assert.deepEqual(stepLines(reused, null), [
        "1.5 s a step, 4.0 s in all",
        "last step: ISA on torch: arithmetic 30 %, kept context 13 %, context reused", "0.063 s where the context is reused, 120 GB kept in main memory",
    ]);
    const refreshed = { ...ROW, context: "refreshed", context_held: [3.36e9, 1e9] };
    assert.equal(stepLines(refreshed, null)[2], "3.4 GB kept on the GPU, 1 GB kept in main memory");
    assert.match(stepLines(refreshed, { steps: 24 })[1], /kept context 13 %, context computed anew$/);
    assert.equal(stepLines({ ...refreshed, context_held: [0, 0] }, null, true).length, 1, "nothing kept, nothing said");
});

test("a step in which it did not", () => {
    const { density, kept, flop_ratio, backend, ...row } = ROW;
    assert.deepEqual(stepLines({ ...row, pace: {}, full: { "switched off": 4 } }, { steps: 4 }), [
        "step 3 of 4: 1.5 s a step, about 1.5 s left", "full attention (switched off)",
    ]);
    assert.deepEqual(stepLines({ ...row, pace: {} }, null), ["1.5 s a step, 4.0 s in all", "last step: full attention (-)"]);
    assert.deepEqual(stepLines({ ...row, pace: {}, tokens: [] }, null), ["1.5 s a step, 4.0 s in all", "last step: no attention (a cache skipped it)"]);
});
