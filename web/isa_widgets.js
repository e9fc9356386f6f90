// The settings of an Attach ISA node that may change during a run, by the server's names.
import { control } from "./isa_graph.js";

export const LIVE = [
    "enabled", "keep_ratio", "dense_query_ratio", "sharpness_threshold", "error_threshold", "segment_top_k", "exact_ratio", "sharpness", "context_tail", "context_refresh",
];

const SEGMENTS = "segment_top_k";
const ROUTING = { dense_query_ratio: "ratio", sharpness_threshold: "threshold", error_threshold: "error_aware", [SEGMENTS]: SEGMENTS };
const widgetName = (name) => (name in ROUTING ? `routing.${name}` : name);

const LEFT_OUT = [2, 4]; // core's modes of a node that is muted, and of one that is bypassed

// The other settings that decide whether ISA acts; they do not change during a run.
export function schedule(node) {
    const value = (name) => control(node, name)?.value;
    return {
        least: value("min_tokens") ?? 0,
        from: value("start_percent") ?? 0,
        to: value("end_percent") ?? 1,
        dense: String(value("dense_blocks") ?? "").trim(),
        bypassed: LEFT_OUT.includes(node.mode),
    };
}

// {name: value}, with the value of the chosen routing; null while the page is creating the node.
export function read(node) {
    if (!node.widgets?.some((widget) => widget.name === "keep_ratio")) return null;
    const found = LIVE.map((name) => [name, control(node, widgetName(name))]).filter(([, widget]) => widget);
    const values = Object.fromEntries(found.map(([name, widget]) => [name, widget.value]));
    // This way to route has no input of its own.
    return control(node, "routing")?.value === SEGMENTS ? { ...values, [SEGMENTS]: true } : values;
}

// What has no part in a way to route is shown as disabled.
const IDLE = { error_aware: ["sharpness"], [SEGMENTS]: ["keep_ratio", "sharpness", "context_tail"] };

export function disableIdle(node) {
    const idle = IDLE[control(node, "routing")?.value] ?? [];
    for (const name of IDLE[SEGMENTS]) {
        const widget = control(node, name);
        if (widget) widget.disabled = idle.includes(name);
    }
    node.setDirtyCanvas?.(true, true);
}

export function write(node, values) {
    for (const [name, value] of Object.entries(values)) {
        // The routing first, because the page creates its slider.
        if (name in ROUTING) set(node, "routing", ROUTING[name]);
        if (name !== SEGMENTS) set(node, widgetName(name), value);
    }
    node.setDirtyCanvas?.(true, true);
}

function set(node, name, value) {
    const widget = control(node, name);
    if (!widget || widget.value === value) return;
    widget.value = value;
    widget.callback?.(value);
}
