// The arithmetic of heat maps.
import assert from "node:assert/strict";
import { test } from "node:test";
import { web } from "./comfyui.mjs";

const { COLOURS, blockAt, blocksOf, bytes, cellOf, endsOf, frameAt, framesOf, valueOf } = await web("isa_map.js");

test("colours go from blue to yellow, each a byte, none far from its neighbour", () => {
    assert.equal(COLOURS.length, 256);
    assert.deepEqual([COLOURS[0], COLOURS[255]], [[13, 8, 135], [240, 249, 33]]);
    for (const [value, colour] of COLOURS.entries()) {
        assert.ok(colour.every((channel) => Number.isInteger(channel) && channel >= 0 && channel <= 255));
        if (value) assert.ok(colour.every((channel, at) => Math.abs(channel - COLOURS[value - 1][at]) <= 4));
    }
});

test("bytes come from base64", () => {
    assert.deepEqual([...bytes("AID/")], [0, 128, 255]);
    assert.deepEqual([...bytes("")], []);
});

test("blocks never straddle two token groups", () => {
    const { parts, blocks } = blocksOf([[3, 6, 10], [3, 6, 10], [1, 5, 4]], 64);
    assert.deepEqual(parts.map((part) => part.first), [0, 3, 6]);
    assert.equal(blocks, 7);
    assert.deepEqual(blocksOf([], 64), { parts: [], blocks: 0 });
});

test("every token is in a block of its own part, in reading order", () => {
    const block = 64;
    const { parts, blocks } = blocksOf([[3, 6, 10], [2, 8, 8], [1, 5, 4]], block);
    const seen = [];
    for (const part of parts) {
        const [frames, tall, wide] = part.grid;
        for (let frame = 0; frame < frames; frame++) {
            for (let token = 0; token < tall * wide; token++) seen.push(blockAt(part, frame, token, block));
        }
    }
    assert.ok(seen.every((at, index) => !index || at === seen[index - 1] || at === seen[index - 1] + 1));
    const counts = Array.from({ length: blocks }, (_, at) => seen.filter((other) => other === at).length);
    assert.deepEqual(counts, [64, 64, 52, 64, 64, 20]);
});

test("frames lie on their sheet row by row, as the server draws it", () => {
    // Three frames of 160 × 96 in two rows of two, as tests/runtime/test_heatmap.py has them of the server.
    assert.deepEqual([0, 1, 2].map((frame) => cellOf(frame, 3, 320, 192)), [[0, 0, 160, 96], [160, 0, 160, 96], [0, 96, 160, 96]]);
    assert.deepEqual(cellOf(0, 1, 160, 96), [0, 0, 160, 96]);
    assert.deepEqual(cellOf(20, 21, 500, 500), [0, 400, 100, 100]);
});

test("every place is over a frame", () => {
    assert.deepEqual([0, 0.33, 0.34, 0.99, 1].map((place) => frameAt(place, 3)), [0, 0, 1, 2, 2]);
});

test("the legend's ends", () => {
    assert.deepEqual(endsOf("sharpness", { sharpness_range: [-6, -2.04] }), ["1e-6.0", "1e-2.0"]);
    assert.deepEqual(endsOf("kept", {}), ["0 %", "100 %"]);
    assert.deepEqual(endsOf("attended", { most_attended: 0.415 }), ["0 %", "42 %"]);
    assert.equal(valueOf("attended", 128, { most_attended: 0.5 }), "25 %");
});

test("a latent frame is named by the frames that Compare counts", () => {
    assert.deepEqual([0, 1, 2, 4].map(framesOf), [[1, 1], [2, 5], [6, 9], [14, 17]]);
});

test("what a colour stands for", () => {
    assert.equal(valueOf("kept", 255, {}), "100 %");
    assert.equal(valueOf("dense", 51, {}), "20 %");
    assert.equal(valueOf("sharpness", 0, { sharpness_range: [-6, -2] }), "0.0000010");
});
