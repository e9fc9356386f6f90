// Heat maps over the frames: what is attended exactly, kept context, sharpness, dense query blocks.
import { api } from "/scripts/api.js";
import { COLOURS, blockAt, blocksOf, bytes, cellOf, endsOf, frameAt, framesOf, valueOf } from "./isa_map.js";
import { post } from "./isa_requests.js";
import { t } from "./isa_text.js";

const MEAN = -1; // stands for the mean of a few transformer blocks
const OPACITY = 0.55;

// The token groups of a run and the frames they stand for.
class Scene {
    constructor({ execution, node, grids, block }) {
        Object.assign(this, { execution, node, block });
        this.parts = blocksOf(grids ?? [], block).parts; // and, once it is asked for, each one's sheet
    }

    // The picture of a part's frames; null where there is none, or not yet.
    sheet(number, arrived) {
        const part = this.parts[number];
        if (!part.sheet) {
            part.sheet = new Image();
            part.sheet.onload = arrived;
            const query = new URLSearchParams({ execution: this.execution, node: this.node, part: number });
            part.sheet.src = api.apiURL(`/liveditor_isa/frames?${query}`);
        }
        return part.sheet.complete && part.sheet.naturalWidth ? part.sheet : null;
    }

    // One latent frame of a part with its row of the map over it.
    draw(canvas, number, frame, row, width, arrived, opacity = OPACITY) {
        const part = this.parts[number];
        const [frames, tall, wide] = part.grid;
        Object.assign(canvas, { width, height: Math.round((width * tall) / wide) });
        const context = canvas.getContext("2d");
        const sheet = this.sheet(number, arrived);
        if (sheet) {
            context.filter = "grayscale(1)"; // the colours are the map's
            context.drawImage(sheet, ...cellOf(frame, frames, sheet.naturalWidth, sheet.naturalHeight), 0, 0, canvas.width, canvas.height);
            context.filter = "none";
        }
        const heat = new OffscreenCanvas(wide, tall);
        const pixels = new ImageData(wide, tall);
        for (let token = 0; token < wide * tall; token++) {
            const value = row[blockAt(part, frame, token, this.block)];
            pixels.data.set([...COLOURS[value], 255 * (sheet ? opacity : 1)], 4 * token);
        }
        heat.getContext("2d").putImageData(pixels, 0, 0);
        context.imageSmoothingEnabled = false;
        context.drawImage(heat, 0, 0, canvas.width, canvas.height);
    }
}

// The small one on the node: how much the context of the last model call was attended exactly. The mouse over it, or the arrow keys, go through the frames.
export class Thumbnail {
    constructor(canvas) {
        this.canvas = canvas;
        this.place = 0.5;
        canvas.hidden = true;
        const title = t("How many of the queries attended exactly to each part of the source. Click for more.");
        Object.assign(canvas, { title, ariaLabel: title, role: "button", tabIndex: 0 });
        canvas.onpointermove = (event) => {
            this.place = Math.min(1, Math.max(0, event.offsetX / canvas.clientWidth));
            this.draw();
        };
        canvas.onclick = () => new HeatMapDialog(this.scene, this.at, this.frame).open();
        const does = { Enter: canvas.onclick, " ": canvas.onclick, ArrowLeft: () => this.step(-1), ArrowRight: () => this.step(1) };
        canvas.onkeydown = (event) => {
            if (!does[event.key] || event.ctrlKey || event.metaKey) return; // with them it is a shortcut of the page's
            event.preventDefault();
            event.stopPropagation();
            if (!event.repeat || event.key.startsWith("Arrow")) does[event.key]();
        };
    }

    begin(event) {
        this.scene = new Scene(event);
        this.attended = null;
        this.canvas.hidden = true;
    }

    show({ at, attended }) {
        if (!this.scene?.parts.length) return;
        this.at = at;
        this.attended = bytes(attended);
        this.canvas.hidden = false;
        this.draw();
    }

    get frame() {
        return frameAt(this.place, this.scene.parts[1].grid[0]);
    }

    step(frames) {
        const last = this.scene.parts[1].grid[0] - 1;
        this.place = (Math.min(last, Math.max(0, this.frame + frames)) + 0.5) / (last + 1);
        this.draw();
    }

    draw() {
        if (this.attended) this.scene.draw(this.canvas, 1, this.frame, this.attended, 192, () => this.draw());
    }
}

const LAYERS = { attended: "Attended exactly", kept: "Kept context", dense: "Dense queries", sharpness: "Sharpness" };
const meaning = (layer) => ({
    attended: t("Colour: how many of the queries, over the attention heads, attended to this part exactly. The others saw its mean, or nothing of it where it was not kept."),
    kept: t("Colour: how many of the attention heads kept this part. What no head kept had no part in the edit."),
    dense: t("Colour: for how many of the attention heads this part attended exactly."),
    sharpness: t("Colour: how sharply this part attends, as a mean over heads on a logarithmic scale. The sharpest are dense."),
}[layer]);

class HeatMapDialog {
    constructor(scene, at, frame) {
        Object.assign(this, { scene, at, frame, found: new Map() });
        this.dialog = document.createElement("dialog");
        this.dialog.className = "isa-maps";
        const layers = Object.entries(LAYERS).map(([name, label]) => `<option value="${name}">${t(label)}</option>`).join("");
        const slider = (name, label) => `<label>${t(label)} <input type="range" data-of="${name}" min="0" step="1"><output></output></label>`;
        this.dialog.innerHTML = `
            <div class="isa-picture"><canvas></canvas></div>
            <div class="isa-bar">
                <select data-of="layer">${layers}</select><select data-of="part"></select><output class="isa-value"></output>
                <span class="isa-legend"><i></i><b></b><em></em></span>
                <button data-do="play">▶ ❚❚</button><button data-do="close" title="${t("Close (Esc)")}">✕</button>
            </div>
            <div class="isa-bar">${slider("frame", "Frame")}${slider("call", "Model call")}${slider("block", "Transformer block")}
                <label>${t("Opacity")} <input type="range" data-of="opacity" min="0" max="100" value="${100 * OPACITY}"></label></div>
            <div class="isa-meaning"></div>
            <div class="isa-note"></div>`;
        const part = (name) => this.dialog.querySelector(name);
        this.canvas = part("canvas");
        this.note = part(".isa-note");
        [this.layer, this.part] = ["layer", "part"].map((name) => part(`[data-of=${name}]`));
        this.sliders = Object.fromEntries(["frame", "call", "block"].map((name) => [name, part(`input[data-of=${name}]`)]));
        this.legend = part(".isa-legend");
        this.opacity = part("[data-of=opacity]");
        this.opacity.oninput = () => this.draw();
        [this.value, this.meaning] = [".isa-value", ".isa-meaning"].map(part);
        this.canvas.onpointermove = ({ offsetX, offsetY }) => this.point(offsetX / this.canvas.clientWidth, offsetY / this.canvas.clientHeight);
        this.canvas.onpointerleave = () => this.point(null);
        this.layer.onchange = () => {
            this.fillParts();
            this.draw();
        };
        this.part.onchange = () => this.draw();
        for (const slider of Object.values(this.sliders)) slider.oninput = () => this.draw();
        this.dialog.onclick = ({ target }) => ({ play: () => this.play(), close: () => this.dialog.close() })[target.dataset?.do]?.();
        this.dialog.onkeydown = (event) => event.stopPropagation(); // the canvas has shortcuts of its own
        this.dialog.onclose = () => {
            clearInterval(this.playing);
            this.dialog.remove();
        };
    }

    async open() {
        document.body.append(this.dialog);
        this.dialog.showModal();
        const { execution, node } = this.scene;
        const { found, error } = await post("maps", { execution, node });
        if (error || !found.length) return (this.note.textContent = t("The heat maps are gone: run the workflow again."));
        this.calls = [...new Set(found.map(([at]) => at))];
        this.transformer = [...new Set(found.map(([, block]) => block))];
        const { frame, call, block } = this.sliders;
        frame.max = this.scene.parts[1].grid[0] - 1;
        frame.value = this.frame;
        call.max = this.calls.length - 1;
        call.value = Math.max(0, this.calls.indexOf(this.at));
        block.max = this.transformer.length - 1;
        block.value = 0;
        block.disabled = this.transformer.length < 2;
        if (block.disabled) this.note.textContent = t("The mean of a few transformer blocks. Settings → LIVEditor → Heat maps has each one recorded.");
        this.fillParts();
        this.draw();
    }

    // Only context is kept or left out. The target and the context both attend, and queries attend to both.
    fillParts() {
        const chosen = this.part.value;
        const named = (number) => [t("Edit"), t("Source")][number] ?? t("Reference {number}", { number: number - 1 });
        const from = this.layer.value === "kept" ? 1 : 0;
        const numbers = this.scene.parts.map((_, number) => number).slice(from);
        this.part.replaceChildren(...numbers.map((number) => new Option(named(number), number)));
        this.part.value = chosen || 1; // at first the source, as on the small one
        if (!this.part.value) this.part.value = 1; // the edit has no such map
    }

    async mapOf(at, block) {
        const key = `${at} ${block}`;
        if (!this.found.has(key)) {
            const { execution, node } = this.scene;
            const found = await post("map", { execution, node, at, block });
            if (found.error) return null;
            for (const name of Object.keys(LAYERS)) found[name] = bytes(found[name]);
            this.found.set(key, found);
        }
        return this.found.get(key);
    }

    async draw() {
        if (!this.calls) return; // not loaded yet, or no longer on the server
        const { frame, call, block } = this.sliders;
        const number = Number(this.part.value);
        const [frames] = this.scene.parts[number].grid;
        frame.max = frames - 1;
        const [at, transformer] = [this.calls[call.value], this.transformer[block.value]];
        const [first, last] = framesOf(Number(frame.value));
        frame.nextElementSibling.textContent = `${first === last ? first : `${first}–${last}`} / ${framesOf(frames - 1)[1]}`;
        call.nextElementSibling.textContent = at + 1;
        block.nextElementSibling.textContent = transformer === MEAN ? t("mean") : transformer;
        const asked = (this.asked = {});
        const found = await this.mapOf(at, transformer);
        if (asked !== this.asked) return; // the sliders were moved meanwhile
        if (!found) return (this.note.textContent = t("There is no map of this block at this model call."));
        const width = Math.min(1280, Math.max(320, this.canvas.parentElement.clientWidth));
        this.scene.draw(this.canvas, number, Number(frame.value), found[this.layer.value], width, () => this.draw(), this.opacity.value / 100);
        Object.assign(this, { shown: found, shownFrame: Number(frame.value), shownPart: number });
        const [low, high] = this.legend.querySelectorAll("b, em");
        [low.textContent, high.textContent] = endsOf(this.layer.value, found);
        this.meaning.textContent = meaning(this.layer.value);
    }

    // The value at a place of the picture, from 0 to 1; x null: the pointer is elsewhere.
    point(x, y) {
        if (x === null || !this.shown) return (this.value.textContent = "");
        const part = this.scene.parts[this.shownPart];
        const [, tall, wide] = part.grid;
        const token = frameAt(Math.max(0, y), tall) * wide + frameAt(Math.max(0, x), wide);
        const byte = this.shown[this.layer.value][blockAt(part, this.shownFrame, token, this.scene.block)];
        this.value.textContent = valueOf(this.layer.value, byte, this.shown);
    }

    play() {
        if (this.playing) {
            clearInterval(this.playing);
            this.playing = null;
            return;
        }
        const { frame } = this.sliders;
        this.playing = setInterval(() => {
            frame.value = (Number(frame.value) + 1) % (Number(frame.max) + 1);
            this.draw();
        }, 250);
    }
}
