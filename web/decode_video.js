// Decode Video's "Compare": the edit over its source with a wipe between them, in step frame by frame.
import { app } from "/scripts/app.js";
import { api } from "/scripts/api.js";
import { locator } from "./isa_graph.js";
import { t, titleOf } from "./isa_text.js";

const NODE = "LIVEditorDecodeVideo";

app.registerExtension({
    name: "LIVEditor.DecodeVideo",
    nodeCreated(node) {
        if (node.comfyClass !== NODE) return;
        const button = node.addWidget("button", "compare", null, () => compare(node), { serialize: false });
        Object.assign(button, { label: t("Compare with the source"), serialize: false });
    },
});

function say(detail) {
    app.extensionManager.toast.add({ severity: "warn", summary: titleOf(NODE), detail, life: 6000 });
}

export function compare(node) {
    // The shown video, also after the workflow was closed and opened again.
    const shown = app.nodeOutputs[locator(node)];
    const result = shown?.images?.[0];
    const { comparable, source, fps } = shown?.liveditor_video?.[0] ?? {};
    if (!result) return say(t("Run the workflow first: there is no edit to compare yet."));
    if (!comparable)
        return say(t("This video cannot be compared: take a format that browsers play, without the source beside the edit."));
    if (!source) return say(t("The source cannot be shown: it is no file in ComfyUI's input, output or temporary folder."));
    new Comparison(address(source), source.start, address(result), fps);
}

function address({ filename, subfolder = "", type }) {
    return api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`);
}

class Comparison {
    // start: the second of the source at which the edit begins.
    constructor(before, start, after, fps) {
        this.frame = 1 / fps;
        this.start = start;
        this.dialog = document.createElement("dialog");
        this.dialog.className = "isa-compare";
        this.dialog.innerHTML = `
            <div class="isa-stage"><video class="isa-after"></video><video class="isa-before"></video><div class="isa-line"></div>
                <span class="isa-side">${t("Source")}</span><span class="isa-side">${t("Edit")}</span></div>
            <div class="isa-bar">
                <button data-do="back" title="${t("One frame back (←)")}">◀</button>
                <button data-do="play" title="${t("Play or pause (space)")}">▶ ❚❚</button>
                <button data-do="on" title="${t("One frame on (→)")}">▶</button>
                <input type="range" min="0" max="1000" value="0" title="${t("Time")}">
                <output></output>
                <button data-do="near" title="${t("Zoom: 1, 2, 4 times; drag to move (Z)")}">1×</button>
                <button data-do="close" title="${t("Close (Esc)")}">✕</button>
            </div>`;
        const part = (name) => this.dialog.querySelector(name);
        [this.stage, this.after, this.before, this.line] = [".isa-stage", ".isa-after", ".isa-before", ".isa-line"].map(part);
        [this.time, this.label] = ["input", "output"].map(part);
        for (const [video, url] of [[this.after, after], [this.before, before]]) {
            Object.assign(video, { src: url, muted: video === this.before, loop: video === this.after, preload: "auto", playsInline: true });
            video.onerror = () => (this.fault = t("A video cannot be shown: the file is gone, or the browser cannot play its format."));
        }
        // The source is resized to cover the edit's frame and cut at the centre, as In-Context References does.
        this.after.onloadedmetadata = () => {
            const ratio = this.after.videoWidth / this.after.videoHeight;
            Object.assign(this.stage.style, { aspectRatio: ratio, width: `min(100%, calc(82vh * ${ratio}))` });
        };
        this.zoom = 1;
        this.wipe(0.5);
        const does = { back: () => this.step(-1), on: () => this.step(1), play: () => this.play(), near: () => this.nearer(), close: () => this.dialog.close() };
        this.dialog.onclick = (event) => does[event.target.dataset?.do]?.();
        this.dialog.onkeydown = (event) => {
            const key = { ArrowLeft: "back", ArrowRight: "on", " ": "play", z: "near" }[event.key];
            event.stopPropagation();
            if (key && event.target !== this.time) {
                event.preventDefault();
                does[key]();
            }
        };
        this.time.oninput = () => this.seek((this.time.value / 1000) * this.last());
        this.stage.onpointermove = (event) => {
            const box = this.stage.getBoundingClientRect();
            if (event.buttons && this.zoom > 1) this.move(event.movementX, event.movementY);
            else this.wipe((event.clientX - box.left) / box.width);
        };
        this.dialog.onclose = () => {
            cancelAnimationFrame(this.drawing);
            // Releases the files, otherwise Windows could not delete them.
            for (const video of [this.after, this.before]) {
                video.removeAttribute("src");
                video.load();
            }
            this.dialog.remove();
        };
        document.body.append(this.dialog);
        this.dialog.showModal();
        this.draw();
        const ready = [this.after, this.before].map((video) => new Promise((loaded) => (video.onloadeddata = loaded)));
        this.before.addEventListener("loadedmetadata", () => (this.before.currentTime = this.start));
        Promise.all(ready).then(() => this.dialog.open && this.play());
    }

    last() {
        return Math.max(0, (this.after.duration || 0) - this.frame);
    }

    wipe(share) {
        this.share = Math.min(1, Math.max(0, share));
        this.place();
    }

    nearer() {
        this.zoom = { 1: 2, 2: 4, 4: 1 }[this.zoom];
        this.shift = [0, 0];
        this.dialog.querySelector("[data-do=near]").textContent = `${this.zoom}×`;
        this.place();
    }

    move(x, y) {
        const box = this.stage.getBoundingClientRect();
        const room = (this.zoom - 1) / 2;
        this.shift = [[x, box.width], [y, box.height]].map(([by, size], axis) =>
            Math.min(room * size, Math.max(-room * size, this.shift[axis] + by)),
        );
        this.place();
    }

    place() {
        const [x, y] = this.shift ?? [0, 0];
        const { width } = this.stage.getBoundingClientRect();
        for (const video of [this.after, this.before]) video.style.transform = `translate(${x}px, ${y}px) scale(${this.zoom})`;
        // The position of the line in the picture, which may be zoomed and moved.
        const cut = width ? ((this.share - 0.5) * width - x) / (this.zoom * width) + 0.5 : this.share;
        this.before.style.clipPath = `inset(0 ${100 - 100 * Math.min(1, Math.max(0, cut))}% 0 0)`;
        this.line.style.left = `${100 * this.share}%`;
    }

    play() {
        if (this.after.paused) {
            // Browsers play nothing with sound before the first click on a page.
            const loud = this.after.play().catch(() => this.dialog.open && ((this.after.muted = true), this.after.play()));
            Promise.allSettled([loud, this.before.play()]);
        } else [this.after, this.before].forEach((video) => video.pause());
    }

    step(frames) {
        [this.after, this.before].forEach((video) => video.pause());
        const now = Math.floor(this.after.currentTime / this.frame + 0.01);
        this.seek((now + frames) * this.frame);
    }

    // Seek to the middle of a frame: at its edge, either neighbour may be shown.
    seek(time) {
        const middle = (Math.round(Math.min(this.last(), Math.max(0, time)) / this.frame) + 0.5) * this.frame;
        this.after.currentTime = middle;
        this.before.currentTime = this.start + middle;
    }

    draw() {
        this.drawing = requestAnimationFrame(() => this.draw());
        const now = this.after.currentTime;
        // The source is longer than the edit and restarts with it.
        const due = this.start + now;
        if (!this.after.paused && !this.before.seeking && Math.abs(this.before.currentTime - due) > 1.5 * this.frame) this.before.currentTime = due;
        if (document.activeElement !== this.time) this.time.value = (1000 * now) / (this.last() || 1);
        const frames = Math.round((this.after.duration || 0) / this.frame);
        const frame = Math.min(frames || 1, Math.floor(now / this.frame) + 1); // the sound may be a little longer
        this.label.textContent = this.fault ?? t("frame {frame} of {frames}", { frame, frames });
    }
}
