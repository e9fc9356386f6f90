// The record of a run that was changed live: whether the node takes it, and which ones are settled.

// What a node does with the record of its finished run: "taken" if the widgets repeat it, "offered" if it would be lost
// (they were moved for the next run, too late for this one, or refused, or they are not the node's alone), or null.
// mine: the widgets' values; uses: how many times the node is part of the workflow; current: the record that it holds.
export function fateOf(event, mine, uses, current) {
    const same = mine && Object.entries(mine).every(([name, value]) => event.values[name] === value);
    if (same && uses === 1) return "taken";
    return event.changes !== current ? "offered" : null;
}

// A reloaded page receives the end of a run again; its record may have been taken and removed since.
const keyOf = (event, workflow) => `isa-ended ${workflow} ${event.node}`;
const endOf = (event) => `${event.execution} ${event.changes}`;

export const isRemembered = (event, workflow, storage) => storage.getItem(keyOf(event, workflow)) === endOf(event);
export const remember = (event, workflow, storage) => storage.setItem(keyOf(event, workflow), endOf(event));
