// Attach ISA: panels on the nodes, which receive the events of their runs; settings.
import { app } from "/scripts/app.js";
import { api } from "/scripts/api.js";
import { faultsOf } from "./isa_checks.js";
import { isInUse, nodeAt, root } from "./isa_graph.js";
import { elsewhere, followQueue, graphFilled, isElsewhere, isOfBefore, isOpening, openPath, settleFilled } from "./isa_owner.js";
import { Panel } from "./isa_panel.js";
import { post } from "./isa_requests.js";
import { speedTest } from "./isa_speed_test.js";
import { loadWords } from "./isa_text.js";

const NODE = "LIVEditorAttachISA";
const LOOK_EVERY = 100; // ms between two checks of the widgets, which limits the requests to the server
const panels = new Map(); // node -> Panel

const setting = (name) => app.extensionManager.setting.get(`LIVEditor.${name}`);

// Between runs: queue when the slider is released and the server is idle.
const autoQueue = {
    pending: false,
    down: false,
    waiting: 0, // executions, with the one that loads, samples or decodes
    moved() {
        this.pending = setting("AutoQueue");
        this.release();
    },
    release() {
        if (!this.pending || this.down || this.waiting) return;
        this.pending = false;
        app.queuePrompt(0, 1);
    },
    told(status) {
        this.waiting = status?.exec_info?.queue_remaining ?? this.waiting;
        this.release();
    },
};

function onEvent(event) {
    if (isOpening() || event.workflow !== root().id || isElsewhere(event.execution)) return;
    // Its record is still wanted, its numbers are not.
    if (event.type === "ended" || !isOfBefore(event.execution)) panels.get(nodeAt(event.node))?.on(event);
}

let shown = null; // the path of the workflow whose events the panels have
let filled = false; // the page has filled the graph since, or found the server again

// Events that the page missed while it was loading or showed another workflow.
async function catchUp() {
    settleFilled();
    [shown, filled] = [openPath(), false];
    for (const panel of panels.values()) panel.clear();
    const workflow = root().id;
    const { events } = await post("events", { workflow, client: api.clientId, without: elsewhere() });
    if (workflow === root().id) events?.forEach(onEvent);
}

// Which heat maps the server makes for this page.
const detail = {
    told: null,
    tell(maps = setting("HeatMaps")) {
        const wanted = { client: api.clientId, maps };
        if (!wanted.client || JSON.stringify(wanted) === this.told) return;
        this.told = JSON.stringify(wanted);
        post("detail", wanted);
    },
};

function warn(output) {
    try {
        const faults = faultsOf(output);
        for (const panel of panels.values()) panel.onQueued(faults);
        for (const detail of faults) app.extensionManager.toast.add({ severity: "warn", summary: "LIVEditor", detail, life: 15000 });
    } catch (error) {
        console.error("LIVEditor:", error); // the run goes on
    }
}

function look() {
    const live = setting("LiveTuning");
    if (!isOpening() && (filled || openPath() !== shown)) catchUp();
    for (const [node, panel] of panels) {
        if (!isInUse(node)) panels.delete(node);
        else {
            try {
                panel.look(live);
            } catch (error) {
                console.error("LIVEditor:", error); // the other panels go on
            }
        }
    }
}

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
        {
            id: "LIVEditor.HeatMaps",
            category: ["LIVEditor", "Attach ISA", "maps"],
            name: "Heat maps",
            tooltip: "Of the next run. The thumbnail is the mean of a few transformer blocks; every block takes the server a few MB.",
            type: "combo",
            options: ["off", "thumbnail", "every transformer block"],
            defaultValue: "thumbnail",
            onChange: (maps) => detail.tell(maps), // before it is stored
        },
    ],
    commands: [
        {
            id: "LIVEditor.SpeedTest",
            label: "ISA: run speed test on this workflow",
            icon: "pi pi-gauge",
            function: () => speedTest([...panels].filter(([node]) => isInUse(node)).map(([, panel]) => panel)),
        },
    ],
    menuCommands: [{ path: ["LIVEditor"], commands: ["LIVEditor.SpeedTest"] }],
    async setup() {
        const style = document.createElement("link");
        Object.assign(style, { rel: "stylesheet", href: new URL("./isa_panel.css", import.meta.url).href });
        document.head.append(style);
        await loadWords();
        followQueue(warn);
        api.addEventListener("liveditor_isa.run", ({ detail }) => onEvent(detail));
        api.addEventListener("status", (event) => {
            detail.tell(); // the first call sends the client's id
            autoQueue.told(event.detail);
        });
        api.addEventListener("reconnected", () => {
            // A stopped server sends no end of a run.
            panels.forEach((panel) => {
                panel.run = null;
                panel.drawNow();
                panel.drawCost();
            });
            detail.told = null;
            detail.tell();
            filled = true;
        });
        addEventListener("pointerdown", () => (autoQueue.down = true), true);
        addEventListener("pointerup", () => {
            autoQueue.down = false;
            setTimeout(() => autoQueue.release(), 2 * LOOK_EVERY);
        }, true);
        setInterval(look, LOOK_EVERY);
        detail.tell();
    },
    afterConfigureGraph() {
        graphFilled(shown);
        filled = true;
    },
    nodeCreated(node) {
        if (node.comfyClass !== NODE) return;
        const panel = new Panel(node, () => autoQueue.moved());
        const added = node.onAdded;
        node.onAdded = function (...args) {
            panels.set(node, panel);
            return added?.apply(this, args);
        };
        const configured = node.onConfigure;
        node.onConfigure = function (...args) {
            panel.opened();
            return configured?.apply(this, args);
        };
    },
});
