// What stands on an Attach ISA node: presets, what the settings cost, what the running steps do, where they attend.
import { app } from "/scripts/app.js";
import { instances, root, tokensAhead } from "./isa_graph.js";
import { Thumbnail } from "./isa_heatmap.js";
import { PRESETS, matches, ownPresets } from "./isa_presets.js";
import { post } from "./isa_requests.js";
import { t } from "./isa_text.js";
import { differing, read, write } from "./isa_widgets.js";

const HEIGHT = 136;

export class Panel {
    // moved: called when the widgets were moved and no run took it.
    constructor(node, moved) {
        this.node = node;
        this.moved = moved;
        this.run = null; // the "started" event of the run that is going on
        this.row = null; // what its last step reported
        this.pending = null; // moved, and not yet with the server
        this.seen = null; // the widgets' values at the last look
        this.tokens = tokensAhead(node); // [target, context ...]
        this.element = document.createElement("div");
        this.element.className = "isa-panel";
        this.element.innerHTML =
            '<div class="isa-presets"></div><div class="isa-cost"><div></div><span></span></div>' +
            '<div class="isa-run"><div class="isa-now"></div><canvas class="isa-thumbnail"></canvas></div><div class="isa-replay"></div>';
        const part = (name) => this.element.querySelector(name);
        [this.presets, this.cost, this.now, this.replay] = [".isa-presets", ".isa-cost", ".isa-now", ".isa-replay"].map(part);
        this.thumbnail = new Thumbnail(part(".isa-thumbnail"));
        const widget = node.addDOMWidget("isa_panel", "div", this.element, {
            serialize: false,
            hideOnZoom: false,
            getMinHeight: () => HEIGHT,
            getMaxHeight: () => HEIGHT,
        });
        widget.serialize = false;
        const changes = this.changes; // drawReplay says it in words
        if (changes) {
            changes.hidden = true;
            changes.options = { ...changes.options, hidden: true }; // for Vue nodes
        }
        this.drawPresets();
    }

    get changes() {
        return this.node.widgets?.find((widget) => widget.name === "live_changes");
    }

    drawPresets() {
        const now = read(this.node);
        const button = (label, title, press) => {
            const element = document.createElement("button");
            Object.assign(element, { textContent: label, title, onclick: press });
            return element;
        };
        const keepOwn = (own) => {
            this.node.properties.isa_presets = own;
            this.drawPresets();
        };
        const own = ownPresets(this.node);
        const use = ([name, values]) => {
            const given = PRESETS[name];
            const element = button(name, given?.title() ?? t("Your own. Double-click removes it."), () => write(this.node, values));
            element.classList.toggle("isa-chosen", matches(values, now));
            if (!given) {
                element.ondblclick = () => keepOwn(Object.fromEntries(Object.entries(own).filter(([other]) => other !== name)));
            }
            return element;
        };
        const keep = button("+", t("Keep these settings as a preset of your own, stored with the workflow"), async () => {
            const name = await app.extensionManager.dialog.prompt({ title: "Attach ISA", message: t("Name of the preset") });
            const short = name?.trim().slice(0, 24);
            if (short && !(short in PRESETS)) keepOwn({ ...ownPresets(this.node), [short]: read(this.node) });
        });
        const given = Object.entries(PRESETS).map(([name, preset]) => [name, preset.values]);
        this.presets.replaceChildren(...[...given, ...Object.entries(own)].map(use), keep);
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
        label.textContent = found.error ?? t("{share} of full attention's arithmetic, {total} tokens", { share: percent(share), total });
    }

    drawNow() {
        const { row, run } = this;
        const lines = [];
        if (row) {
            const full = Object.keys(row.full)[0];
            const kind = row.density !== undefined ? t("density {share}", { share: percent(row.density) })
                : row.tokens.length ? t("full attention ({reason})", { reason: full ?? "-" }) : t("no attention (a cache skipped it)");
            lines.push(run ? `${t("step {step} of {steps}", { step: row.step + 1, steps: run.steps })}: ${kind}` : `${t("last step")}: ${kind}`);
            const pace = [["ISA", row.pace.isa], [t("full"), row.pace.full]].filter(([, seconds]) => seconds);
            const paces = pace.map(([name, seconds]) => `${name} ${seconds.toPrecision(3)} s`).join(", ");
            if (paces) lines.push(`${paces} ${t("per model call")}${row.backend ? `, ${row.backend[0]}` : ""}`);
            this.now.title = [row.backend?.join(": "), full && row.density !== undefined && t("full attention ({reason})", { reason: full })]
                .filter(Boolean).join("\n");
        }
        if (this.said) lines.push(this.said);
        else if (run && row && !this.pending) {
            const mine = read(this.node);
            const others = mine ? differing(row.values, mine) : [];
            if (others.length) lines.push(t("This run goes on with {values}", { values: listed(row.values, others) }));
        }
        if (instances(this.node) > 1) lines.push(t("This subgraph is used more than once: a run that is going on is not changed from here."));
        this.now.textContent = lines.join("\n");
    }

    // What live changes the next run repeats.
    drawReplay() {
        if (!this.changes?.value) return this.replay.replaceChildren();
        const forget = document.createElement("button");
        Object.assign(forget, { textContent: t("use these settings throughout"), onclick: () => this.forget() });
        this.replay.replaceChildren(`${t("Repeats the last run's live changes.")} `, forget);
    }

    forget() {
        if (this.changes?.value) this.changes.value = "";
        this.drawReplay();
    }

    // The server's events, for the node of the workflow that is open.
    on(event) {
        this[{ started: "onStarted", step: "onStep", map: "onMap", ended: "onEnded" }[event.type]](event);
        this.drawNow();
    }

    onStarted(event) {
        Object.assign(this, { run: event, row: null, said: null, pending: null });
        this.thumbnail.begin(event);
    }

    onStep(event) {
        this.row = event;
        if (this.toldAt !== undefined && event.at >= this.toldAt) this.said = this.toldAt = undefined;
        if (event.tokens.length && String(event.tokens) !== String(this.tokens)) {
            this.tokens = event.tokens;
            this.drawCost();
        }
    }

    onMap(event) {
        this.thumbnail.show(event);
    }

    onEnded(event) {
        Object.assign(this, { run: null, said: null, pending: null, toldAt: undefined });
        const mine = read(this.node);
        if (!event.changes) return;
        // Settings that were moved for the next run, or that the node does not hold alone, are no end of this one.
        const same = mine && Object.entries(mine).every(([name, value]) => event.values[name] === value);
        if (same && instances(this.node) === 1 && this.changes && isNews(event)) {
            this.changes.value = event.changes;
            this.drawReplay();
        }
    }

    // Every now and then: by callbacks alone, the two ways of drawing nodes tell different things.
    look(live) {
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
        if (seen !== this.seen) {
            const before = this.seen && JSON.parse(this.seen);
            this.seen = seen;
            this.drawReplay();
            this.drawPresets();
            this.drawCost(values);
            if (before) this.settle(values, before, live);
        }
        if (this.pending && this.run) this.tell();
    }

    // By hand, or by a preset: a run takes it, or the next one will.
    settle(values, before, live) {
        const moved = Object.keys(values).filter((name) => values[name] !== before[name]);
        if (this.run && live && instances(this.node) === 1) {
            this.pending = withRouting({ ...this.pending, ...Object.fromEntries(moved.map((name) => [name, values[name]])) }, values);
            return;
        }
        this.forget();
        this.drawNow();
        if (!this.run) this.moved();
    }

    // One request at a time, so that none overtakes another; what is moved meanwhile goes with the next.
    async tell() {
        if (this.telling) return;
        this.telling = true;
        const values = this.pending;
        const { execution, node } = this.run;
        this.pending = null;
        const answer = await post("live", { execution, node, values });
        this.telling = false;
        if (!this.run) return;
        if (answer.error === undefined) {
            this.said = t("From model call {call}: {values}", { call: answer.at + 1, values: listed(values) });
            this.toldAt = answer.at + 3; // long enough to be read
        } else {
            const again = answer.status === undefined || answer.status === 429;
            if (again) this.pending = withRouting({ ...values, ...this.pending }, read(this.node));
            this.said = answer.status === 429 ? this.said : answer.error;
        }
        this.drawNow();
    }
}

// Both ways to route exclude each other.
function withRouting(moved, values) {
    return Object.fromEntries(Object.entries(moved).filter(([name]) => name in values));
}

// An end is told again to a page that was reloaded; it may have been forgotten since.
function isNews(event) {
    const key = `isa-ended ${root().id} ${event.node}`;
    const end = `${event.execution} ${event.changes}`;
    if (sessionStorage.getItem(key) === end) return false;
    sessionStorage.setItem(key, end);
    return true;
}

const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;
const listed = (values, names = Object.keys(values)) => names.map((name) => `${name} ${values[name]}`).join(", ");
