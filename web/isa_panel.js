// The panel of an Attach ISA node: presets, cost of the settings, the last steps, heat map.
import { app } from "/scripts/app.js";
import { instances, nodeAt, root, storeState, tokensAhead } from "./isa_graph.js";
import { Thumbnail } from "./isa_heatmap.js";
import { byThreshold, costOf, differing, estimatedCost, listed, stepLines } from "./isa_lines.js";
import { PRESETS, matches, ownPresets, qualityOf } from "./isa_presets.js";
import { fateOf, isRemembered, remember } from "./isa_record.js";
import { post } from "./isa_requests.js";
import { said } from "./isa_server_words.js";
import { isTest } from "./isa_speed_test.js";
import { t, titleOf } from "./isa_text.js";
import { disableIdle, read, schedule, write } from "./isa_widgets.js";

const HEIGHT = 280; // of all lines of a run that was changed live, in the longest language
const WIDTH = 400; // of a new node: the presets are in one line, and core cuts no label
const CORES_TEXT = "$$node-text-preview"; // core's widget for a node's text, which breaks words and lengthens the node: the panel shows it
const CREATED_AFTER = 10; // looks after which a page that has opened a workflow has given all widgets their values

function hide(widget) {
    widget.hidden = true;
    (widget.options ??= {}).hidden = true; // for Vue nodes, whose store has the same object
}

export class Panel {
    // moved: called when the widgets were moved and no run took it.
    constructor(node, moved) {
        this.node = node;
        this.moved = moved;
        this.run = null; // the "started" event of the current run
        this.row = null; // the report of its last step
        this.report = ""; // the server's sentences about the last run
        this.faults = []; // sentences about the prompt that was queued last
        this.tested = null; // {values, tokens, line} of a speed test
        this.pending = null; // the widgets' values that were moved and not yet sent to the server
        this.offered = null; // the "ended" event of a run that was changed live and that the widgets do not repeat
        this.taken = null; // the one that the widgets repeat
        this.seen = null; // the widgets' values at the last check
        this.opening = 0; // looks in which some widgets may still get the values of the workflow that was opened
        this.measured = null; // the last step of a run in which ISA acted
        Object.assign(this, tokensAhead(node)); // tokens: [target, context ...]; about: estimated
        this.element = document.createElement("div");
        this.element.className = "isa-panel";
        this.element.innerHTML =
            '<div class="isa-presets"></div><div class="isa-quality"></div><div class="isa-cost"><div></div><span></span></div>' +
            '<div class="isa-run"><div><div class="isa-now"></div><div class="isa-report"></div></div><canvas class="isa-thumbnail"></canvas></div>' +
            '<div class="isa-replay"></div>';
        const part = (name) => this.element.querySelector(name);
        [this.presets, this.quality, this.cost, this.now, this.after, this.replay] =
            [".isa-presets", ".isa-quality", ".isa-cost", ".isa-now", ".isa-report", ".isa-replay"].map(part);
        this.thumbnail = new Thumbnail(part(".isa-thumbnail"));
        const widget = node.addDOMWidget("isa_panel", "div", this.element, {
            serialize: false,
            hideOnZoom: false,
            getMinHeight: () => HEIGHT,
        });
        widget.serialize = false;
        node.setSize([Math.max(WIDTH, node.size[0]), node.size[1]]);
        if (this.changes) hide(this.changes); // drawReplay shows it as text
        const add = node.addCustomWidget;
        // Vue nodes read whether a widget is hidden when it is added, and never again.
        node.addCustomWidget = function (added) {
            if (added.name === CORES_TEXT) hide(added);
            return add.call(this, added);
        };
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
            const preset = PRESETS[name];
            const element = button(preset ? t(name) : name, preset?.title() ?? t("Your own, stored with the workflow"), () => write(this.node, values));
            element.classList.toggle("isa-chosen", matches(values, now));
            return element;
        };
        const useOwn = ([name, values]) => {
            const pair = document.createElement("span");
            pair.className = "isa-own";
            const others = () => Object.fromEntries(Object.entries(own).filter(([other]) => other !== name));
            pair.append(use([name, values]), button("✕", t("Remove this preset"), () => keepOwn(others())));
            return pair;
        };
        const keep = button("+", t("Keep these settings as a preset of your own, stored with the workflow"), async () => {
            const name = await app.extensionManager.dialog.prompt({ title: titleOf(this.node.type), message: t("Name of the preset") });
            const short = name?.trim().slice(0, 24);
            if (!short) return;
            if (!Object.keys(PRESETS).some((name) => [name, t(name)].includes(short))) return keepOwn({ ...ownPresets(this.node), [short]: read(this.node) });
            const detail = t("{name} is a preset that comes with the node: take another name.", { name: short });
            app.extensionManager.toast.add({ severity: "warn", summary: titleOf(this.node.type), detail, life: 6000 });
        });
        const given = Object.entries(PRESETS).map(([name, preset]) => [name, preset.values]);
        const test = button(t("Speed test"), t("Speed test: samples this workflow twice, with full attention and as it is set, and saves nothing"), () =>
            app.extensionManager.command.execute("LIVEditor.SpeedTest"));
        this.presets.replaceChildren(...given.map(use), ...Object.entries(own).map(useOwn), keep, test);
    }

    async drawCost(values = read(this.node)) {
        if (!values) return; // the page is still creating the node
        const { tokens, exact, about, measured } = this;
        const asked = (this.asked = {});
        const show = ({ share, text, title, idle, bypassed }) => {
            const [bar, label] = this.cost.children;
            this.cost.classList.toggle("isa-idle", !!idle);
            const full = bypassed ? "" : !values.enabled ? PRESETS.Exact.quality() : values.context_refresh ? t("The context is reused all the same.") : "";
            this.quality.textContent = idle ? full : qualityOf(values);
            bar.style.width = `${Math.min(100, 100 * share)}%`;
            label.textContent = text;
            this.cost.title = [text, title].filter(Boolean).join("\n");
        };
        const cost = costOf({ values, tokens, exact, about, measured, ...schedule(this.node) });
        if (cost.text) return show(cost);
        const found = await post("estimate", { values, tokens, exact });
        if (asked === this.asked) show(estimatedCost(found, cost)); // unless the settings changed meanwhile
    }

    drawNow() {
        const { row, run } = this;
        const { tested } = this, testing = run && isTest(run.execution);
        const lines = row ? stepLines(row, run, !!this.report) : [];
        if (testing && row) lines[0] = `${t("Speed test")}: ${lines[0]}`;
        if (tested && !run && tested.tokens === String(this.tokens) && !differing(tested.values, read(this.node) ?? {}).length) lines.unshift(tested.line);
        if (row) this.now.title = row.backend?.map(said).join(": ") ?? "";
        if (this.said) lines.push(this.said);
        else if (run && !testing && !this.pending) {
            const mine = read(this.node);
            const { values } = row ?? run;
            const others = mine ? differing(values, mine) : [];
            if (others.length) lines.push(t("This run goes on with {values}", { values: listed(values, others) }));
        }
        if (instances(this.node) > 1) lines.push(t("This subgraph is used more than once: a run that is going on is not changed from here."));
        this.now.textContent = [...this.faults.map((fault) => `⚠ ${fault}`), ...lines].join("\n");
        this.after.textContent = run ? "" : this.report;
    }

    // The live changes that the next run repeats or can repeat.
    drawReplay() {
        const button = (label, press) => Object.assign(document.createElement("button"), { textContent: label, onclick: press });
        const parts = [];
        if (this.offered) {
            parts.push(`${t("This run was changed live.")} `, button(t("repeat it"), () => this.repeat()), " ", button("✕", () => this.settled()));
        } else if (this.changes?.value) {
            parts.push(`${t("Repeats the last run's live changes.")} `, button(t("use these settings throughout"), () => this.forget()));
        }
        this.replay.replaceChildren(...parts);
    }

    // The run that is offered, as if the widgets had not been moved away from it.
    repeat() {
        const { values, changes } = this.offered;
        write(this.node, values);
        this.seen = JSON.stringify(read(this.node)); // not moved by hand
        this.changes.value = changes;
        storeState();
        this.drawPresets();
        this.drawCost();
        this.settled();
    }

    // Taken or not wanted.
    settled() {
        remember(this.offered, root().id, sessionStorage);
        this.offered = null;
        this.drawReplay();
    }

    forget() {
        this.rememberTaken();
        if (this.changes?.value) this.changes.value = "";
        this.drawReplay();
    }

    rememberTaken() {
        if (this.taken) remember(this.taken, root().id, sessionStorage);
        this.taken = null;
    }

    // Another workflow is shown, or this one under another name. ahead: has the next look count its tokens again.
    clear() {
        Object.assign(this, { run: null, row: null, report: "", faults: [], said: null, pending: null, toldAt: undefined, measured: null, ahead: null });
        this.thumbnail.canvas.hidden = true;
        this.drawNow();
    }

    // The server's events, for the node of the workflow that is open.
    on(event) {
        this[{ started: "onStarted", step: "onStep", map: "onMap", ended: "onEnded", report: "onReport" }[event.type]](event);
        this.drawNow();
    }

    onStarted(event) {
        Object.assign(this, { run: event, row: null, report: "", said: null, pending: null });
        this.thumbnail.begin(event);
    }

    onStep(event) {
        this.row = event;
        if (this.toldAt !== undefined && event.at >= this.toldAt) this.said = this.toldAt = undefined;
        if (event.tokens.length && (this.about || String([event.tokens, event.exact ?? 0]) !== String([this.tokens, this.exact]))) {
            Object.assign(this, { tokens: event.tokens, exact: event.exact ?? 0, about: false });
            this.drawCost();
        }
        if (event.flop_ratio === undefined) return;
        this.measured = event;
        if (byThreshold(event.values)) this.drawCost();
    }

    onMap(event) {
        this.thumbnail.show(event);
    }

    onEnded(event) {
        Object.assign(this, { run: null, said: null, pending: null, toldAt: undefined });
        const mine = read(this.node);
        if (isTest(event.execution) || !event.changes || !this.changes || isRemembered(event, root().id, sessionStorage)) return;
        const fate = fateOf(event, mine, instances(this.node), this.changes.value);
        if (fate !== "offered") this.taken = event;
        if (fate === "taken") {
            this.changes.value = event.changes;
            this.offered = null;
            storeState();
        } else if (fate === "offered") {
            this.offered = event;
        }
        this.drawReplay();
    }

    // The page has given the node a workflow's values: no hand has moved them.
    opened() {
        Object.assign(this, { seen: null, opening: CREATED_AFTER });
    }

    // The server's sentences about the node's run, or what it will be.
    onReport(event) {
        this.report = said(event.sentences);
    }

    // A prompt is queued. faults: sentences about it. A run without this node would leave another run's numbers here.
    onQueued(faults) {
        if (schedule(this.node).bypassed) this.clear();
        this.faults = faults;
        this.drawNow();
    }

    // Why neither ISA nor context reuse would act in a run, "" where one does.
    whyNothingActs() {
        const values = read(this.node);
        const cost = costOf({ values, ...this, ...schedule(this.node) });
        if (!cost.idle || (values.enabled && values.context_refresh)) return "";
        return [cost.text, cost.title].filter(Boolean).join(". ");
    }

    onTested(line, steps) {
        const mine = steps.filter(({ node }) => nodeAt(node) === this.node).at(-1);
        if (mine) this.tested = { values: mine.values, tokens: String(mine.tokens), line };
        this.drawNow();
    }

    // Called at intervals: the callbacks of the two node renderers differ.
    look(live) {
        const values = read(this.node);
        if (!values) return;
        const opening = this.opening > 0 && this.opening--;
        const ahead = tokensAhead(this.node);
        if (JSON.stringify(ahead) !== this.ahead) {
            // Until a run reports the real number.
            this.ahead = JSON.stringify(ahead);
            Object.assign(this, ahead);
            this.drawCost(values);
        }
        const acting = JSON.stringify(schedule(this.node));
        if (acting !== this.acting) {
            this.acting = acting;
            this.drawCost(values);
        }
        const seen = JSON.stringify(values);
        if (seen !== this.seen) {
            const before = this.seen;
            this.seen = seen;
            disableIdle(this.node);
            this.drawReplay();
            this.drawPresets();
            this.drawCost(values);
            if (before) this.settle(values, live, opening);
        }
        if (this.pending && this.run) this.tell();
    }

    // Moved by hand or by a preset: for the current run or the next one.
    settle(values, live, opening) {
        if (this.run && live && instances(this.node) === 1 && !isTest(this.run.execution)) {
            // All values: a slider that was moved before the run began would otherwise differ from the run.
            this.pending = values;
            return;
        }
        // On a busy machine some widgets get a workflow's values late: nobody has moved them.
        if (!opening) this.forget();
        this.drawNow();
        if (!this.run) this.moved();
    }

    // One request at a time, so that the order is kept. Later changes go into the next request.
    async tell() {
        if (this.telling) return;
        this.telling = true;
        const { pending: values, run } = this;
        const { execution, node } = run;
        this.pending = null;
        const answer = await post("live", { execution, node, values });
        this.telling = false;
        if (this.run !== run) return; // it is over, and another one may have begun
        if (answer.error === undefined) {
            const before = (this.row ?? run).values;
            const changed = Object.keys(values).filter((name) => values[name] !== before[name]);
            this.said = changed.length ? t("From model call {call}: {values}", { call: answer.at + 1, values: listed(values, changed) }) : null;
            this.toldAt = answer.at + 3; // long enough to be read
        } else {
            const again = answer.status === undefined || answer.status === 429;
            if (again) this.pending ??= values;
            this.said = answer.status === 429 ? this.said : answer.error;
        }
        this.drawNow();
    }
}
