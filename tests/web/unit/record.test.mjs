// What becomes of the record of a run that was changed live.
import assert from "node:assert/strict";
import { test } from "node:test";
import { web } from "./comfyui.mjs";

const { fateOf, isRemembered, remember } = await web("isa_record.js");

const EVENT = { execution: "one", node: "12:3", changes: '{"5": []}', values: { enabled: true, keep_ratio: 0.5, block_size: 64 } };
const MINE = { enabled: true, keep_ratio: 0.5 };

function storage() {
    const held = new Map();
    return { getItem: (key) => held.get(key) ?? null, setItem: (key, value) => held.set(key, value) };
}

test("widgets that are as the run ended take its record", () => {
    assert.equal(fateOf(EVENT, MINE, 1, ""), "taken");
    assert.equal(fateOf(EVENT, MINE, 1, EVENT.changes), "taken");
});

test("widgets that were moved since are offered it, once", () => {
    const moved = { ...MINE, keep_ratio: 0.6 };
    assert.equal(fateOf(EVENT, moved, 1, ""), "offered");
    assert.equal(fateOf(EVENT, moved, 1, EVENT.changes), null);
});

test("by the other way to route, the run's values are not the widgets'", () => {
    assert.equal(fateOf(EVENT, { ...MINE, sharpness_threshold: 0.1 }, 1, ""), "offered");
});

test("a node of a subgraph that is used twice takes none", () => {
    assert.equal(fateOf(EVENT, MINE, 2, ""), "offered");
});

test("a node that the page still makes is offered it", () => {
    assert.equal(fateOf(EVENT, null, 1, ""), "offered");
});

test("an end is done with for its workflow, its node, its run and its record", () => {
    const held = storage();
    assert.ok(!isRemembered(EVENT, "w", held));
    remember(EVENT, "w", held);
    assert.ok(isRemembered({ ...EVENT }, "w", held));
    assert.ok(!isRemembered(EVENT, "other", held));
    for (const changed of [{ node: "3" }, { execution: "two" }, { changes: '{"5": [[0, {}]]}' }]) {
        assert.ok(!isRemembered({ ...EVENT, ...changed }, "w", held));
    }
});

test("a node's later end takes the place of its earlier one", () => {
    const held = storage();
    remember(EVENT, "w", held);
    remember({ ...EVENT, execution: "two" }, "w", held);
    assert.ok(!isRemembered(EVENT, "w", held));
});
