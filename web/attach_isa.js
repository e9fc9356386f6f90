// The panel of Attach ISA: presets, what the settings cost, what the running steps do, and sliders that act while they run.
import { app } from "/scripts/app.js";
import { api } from "/scripts/api.js";
import { PRESETS, matches } from "./isa_presets.js";
import { nodeAt, tokensAhead } from "./isa_graph.js";
import { LIVE, read, write } from "./isa_widgets.js";

const NODE = "LIVEditorAttachISA";
const LOOK_EVERY = 100; // ms between two looks at the widgets; no more than that reaches the server
const panels = new Map(); // node -> Panel

class Panel {
    constructor(node) {
        this.node = node;
        this.run = null; // {execution, node, steps} of the run that is going on
        this.row = null; // what its last step reported
        this.tokens = tokensAhead(node); // [target, context ...]
        this.element = document.createElement("div");
        this.element.className = "isa-panel";
        this.element.innerHTML =
            '<div class="isa-presets"></div><div class="isa-cost"><div></div><span></span></div>' +
            '<div class="isa-now"></div><div class="isa-replay"></div>';
        [this.presets, this.cost, this.now, this.replay] = this.element.children;
        const widget = node.addDOMWidget("isa_panel", "div", this.element, {
            serialize: false,
            hideOnZoom: false,
            getMinHeight: () => 112,
            getMaxHeight: () => 112,
        });
        widget.serialize = false;
        const changes = changesOf(node); // drawReplay says it in words
        if (changes) {
            changes.hidden = true;
            changes.options = { ...changes.options, hidden: true }; // for Vue nodes
        }
        this.seen = null;
        this.drawPresets();
    }

    get own() {
        return this.node.properties.isa_presets ?? {};
    }

    drawPresets() {
        const now = read(this.node);
        const button = (label, title, press) => {
            const element = document.createElement("button");
            Object.assign(element, { textContent: label, title, onclick: press });
            return element;
        };
        const use = ([name, values]) => {
            const element = button(name, PRESETS[name]?.title ?? "Your own. Double-click removes it.", () =>
                write(this.node, values),
            );
            element.classList.toggle("isa-chosen", matches(values, now));
            if (!PRESETS[name]) {
                element.ondblclick = () => {
                    const { [name]: _, ...others } = this.own;
                    this.node.properties.isa_presets = others;
                    this.drawPresets();
                };
            }
            return element;
        };
        const keep = button("+", "Keep these settings as a preset of your own, stored with the workflow", async () => {
            const name = await app.extensionManager.dialog.prompt({ title: "Attach ISA", message: "Name of the preset" });
            if (name?.trim()) {
                this.node.properties.isa_presets = { ...this.own, [name.trim().slice(0, 24)]: read(this.node) };
                this.drawPresets();
            }
        });
        const given = Object.entries(PRESETS).map(([name, preset]) => [name, preset.values]);
        this.presets.replaceChildren(...[...given, ...Object.entries(this.own)].map(use), keep);
    }

    // The widgets were moved, by whom or whatever.
    async changed(values, before) {
        this.drawPresets();
        this.drawCost(values);
        if (!before) return;
        const moved = Object.fromEntries(LIVE.filter((name) => name in values && values[name] !== before[name]).map((name) => [name, values[name]]));
        if (this.run && app.extensionManager.setting.get("LIVEditor.LiveTuning")) {
            await this.tell(moved);
        } else if (!this.run) {
            this.forget();
            autoQueue.moved();
        }
    }

    async tell(values) {
        const { execution, node } = this.run;
        const answer = await post("live", { execution, node, values });
        this.said = answer.error ?? `From step ${answer.step + 1}: ${listed(values)}`;
        this.drawNow();
    }

    async drawCost(values = read(this.node)) {
        const { tokens } = this;
        const asked = (this.asked = JSON.stringify([values, tokens]));
        const found = await post("estimate", { values, tokens });
        if (asked !== this.asked) return; // moved on meanwhile
        const [bar, label] = this.cost.children;
        const share = found.flop_ratio;
        bar.style.width = `${Math.min(100, 100 * (share ?? 0))}%`;
        const total = tokens.reduce((sum, count) => sum + count).toLocaleString("en");
        label.textContent = found.error ?? `${percent(share)} of full attention's arithmetic, ${total} tokens`;
    }

    drawNow() {
        const row = this.row;
        const lines = [];
        if (row) {
            const kind = row.density === undefined ? `full attention (${Object.keys(row.full)[0] ?? "no context"})` : `density ${percent(row.density)}`;
            lines.push(`${this.run ? `step ${row.step + 1 - this.run.begins} of ${this.run.steps}` : "last step"}: ${kind}`);
            const pace = [["ISA", row.pace.isa], ["full", row.pace.full]].filter(([, seconds]) => seconds);
            lines.push(pace.map(([name, seconds]) => `${name} ${seconds.toPrecision(3)} s/step`).join(", "));
            if (row.backend) lines[1] += `, on ${row.backend[0]}`;
            this.now.title = row.backend ? `${row.backend[0]}: ${row.backend[1]}` : "";
        }
        if (this.said) lines.push(this.said);
        this.now.textContent = lines.join("\n");
    }

    // What live changes the next run repeats.
    drawReplay() {
        const widget = changesOf(this.node);
        if (!widget?.value) return this.replay.replaceChildren();
        const forget = document.createElement("button");
        Object.assign(forget, { textContent: "use these settings throughout", onclick: () => this.forget() });
        this.replay.replaceChildren("Repeats the last run's live changes. ", forget);
    }

    forget() {
        const widget = changesOf(this.node);
        if (widget?.value) {
            widget.value = "";
            this.drawReplay();
        }
    }

    on(event) {
        if (event.type === "ended") {
            this.run = null;
            // What the sliders show already, except in a tab that was opened meanwhile.
            if (event.changes) write(this.node, event.values);
            this.seen = JSON.stringify(read(this.node));
            const widget = changesOf(this.node);
            if (widget) widget.value = event.changes;
            this.said = null;
            this.drawReplay();
            this.drawPresets();
        } else {
            // A page that was reloaded meets the run at one of its steps.
            const { execution, node, steps, begins } = event;
            if (event.type === "started" || this.run?.execution !== execution) {
                this.run = { execution, node, steps: steps ?? "?", begins: begins ?? 0 };
            }
            if (event.type === "started") this.said = null;
            if (event.type === "step") {
                this.row = event;
                if (event.tokens.length && String(event.tokens) !== String(this.tokens)) {
                    this.tokens = event.tokens;
                    this.drawCost();
                }
            }
        }
        this.drawNow();
    }

    // Every LOOK_EVERY ms: by callbacks alone, the two ways of drawing nodes tell different things.
    look() {
        const values = read(this.node);
        if (!values) return;
        const ahead = tokensAhead(this.node);
        if (String(ahead) !== this.ahead) {
            // Until a run says how many there really are.
            this.ahead = String(ahead);
            this.tokens = ahead;
            this.drawCost(values);
        }
        const seen = JSON.stringify(values);
        if (seen === this.seen) return;
        const before = this.seen && JSON.parse(this.seen);
        this.seen = seen;
        this.drawReplay();
        this.changed(values, before);
    }
}

const changesOf = (node) => node.widgets?.find((widget) => widget.name === "live_changes");
const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;
const listed = (values) => Object.entries(values).map(([name, value]) => `${name} ${value}`).join(", ");

async function post(path, body) {
    try {
        const answer = await api.fetchApi(`/liveditor_isa/${path}`, {
            method: "POST",
            headers: { "Content-Type": "application/json" },
            body: JSON.stringify(body),
        });
        return await answer.json();
    } catch {
        return { error: "The server does not answer." };
    }
}

// Between runs: queue once the hand has left the slider.
const autoQueue = {
    pending: false,
    down: false,
    moved() {
        this.pending = app.extensionManager.setting.get("LIVEditor.AutoQueue");
        if (!this.down) this.release();
    },
    release() {
        if (this.pending) app.queuePrompt(0, 1);
        this.pending = false;
    },
};

app.registerExtension({
    name: "LIVEditor.AttachISA",
    settings: [
        {
            id: "LIVEditor.LiveTuning",
            category: ["LIVEditor", "Attach ISA", "live"],
            name: "Sliders act on the run that is going on",
            tooltip: "From its next step on. Off: they wait for the next run.",
            type: "boolean",
            defaultValue: true,
        },
        {
            id: "LIVEditor.AutoQueue",
            category: ["LIVEditor", "Attach ISA", "queue"],
            name: "Run when a slider is released",
            tooltip: "Between runs.",
            type: "boolean",
            defaultValue: false,
        },
    ],
    setup() {
        const style = document.createElement("link");
        Object.assign(style, { rel: "stylesheet", href: new URL("./isa_panel.css", import.meta.url).href });
        document.head.append(style);
        api.addEventListener("liveditor_isa.run", ({ detail }) => panels.get(nodeAt(app, detail.node))?.on(detail));
        // A stopped server ends no run.
        api.addEventListener("reconnected", () => panels.forEach((panel) => {
            panel.run = null;
            panel.drawNow();
        }));
        addEventListener("pointerdown", () => (autoQueue.down = true), true);
        addEventListener("pointerup", () => {
            autoQueue.down = false;
            setTimeout(() => autoQueue.release(), 2 * LOOK_EVERY);
        }, true);
        setInterval(() => panels.forEach((panel) => panel.look()), LOOK_EVERY);
    },
    nodeCreated(node) {
        if (node.comfyClass !== NODE) return;
        const panel = new Panel(node);
        panels.set(node, panel);
        // What a workflow brings is not moved by anybody.
        const configured = node.onConfigure;
        node.onConfigure = function (...args) {
            panel.seen = null;
            return configured?.apply(this, args);
        };
        const removed = node.onRemoved;
        node.onRemoved = function (...args) {
            panels.delete(node);
            return removed?.apply(this, args);
        };
    },
});
