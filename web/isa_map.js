// The arithmetic of heat maps: colours, which block a token is in, and where a frame lies on the sheet of a part's frames.

const RAMP = [[13, 8, 135], [126, 3, 168], [204, 71, 120], [248, 149, 64], [240, 249, 33]];

// 0..255 -> [r, g, b]
export const COLOURS = Array.from({ length: 256 }, (_, value) => {
    const at = (value / 255) * (RAMP.length - 1);
    const low = Math.min(Math.floor(at), RAMP.length - 2);
    return RAMP[low].map((from, channel) => Math.round(from + (at - low) * (RAMP[low + 1][channel] - from)));
});

export const bytes = (base64) => Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));

// Token groups, [frames, rows, columns] each, in blocks that never straddle two: {parts: [{grid, first}], blocks}.
export function blocksOf(grids, block) {
    let blocks = 0;
    const parts = grids.map((grid) => {
        const part = { grid, first: blocks };
        blocks += Math.ceil((grid[0] * grid[1] * grid[2]) / block);
        return part;
    });
    return { parts, blocks };
}

// The block of a frame's token. Blocks are runs of tokens in reading order, frame after frame.
export function blockAt({ grid: [, tall, wide], first }, frame, token, block) {
    return first + Math.floor((frame * wide * tall + token) / block);
}

// [x, y, width, height] of a frame on a sheet, which is as many frames wide as the next square.
export function cellOf(frame, frames, width, height) {
    const across = Math.ceil(Math.sqrt(frames));
    const [w, h] = [width / across, height / Math.ceil(frames / across)];
    return [(frame % across) * w, Math.floor(frame / across) * h, w, h];
}

// Frames of the video, counted from 1 as Compare counts them, that a latent frame stands for: one for the first, then four each.
export const framesOf = (latent) => (latent ? [4 * latent - 2, 4 * latent + 1] : [1, 1]);

// The share that the brightest colour stands for.
const most = (layer, found) => (layer === "attended" ? found.most_attended : 1);
const whole = (share) => `${Math.round(100 * share)} %`;

// What a colour stands for: a share of heads or queries, or a sharpness on its logarithmic scale. byte: of the map.
export function valueOf(layer, byte, found) {
    if (layer !== "sharpness") return whole((most(layer, found) * byte) / 255);
    const [low, high] = found.sharpness_range;
    return (10 ** (low + (byte / 255) * (high - low))).toPrecision(2);
}

// The frame at a place from 0 to 1.
export const frameAt = (place, frames) => Math.min(frames - 1, Math.floor(place * frames));

// The legend's ends.
export function endsOf(layer, found) {
    return layer === "sharpness" ? found.sharpness_range.map((power) => `1e${power.toFixed(1)}`) : [whole(0), whole(most(layer, found))];
}
