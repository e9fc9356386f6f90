// The record of a run that was changed live: what becomes of it, and which ones are done with.

// What a node does with the record of its run that ended: "taken" where the widgets repeat it, "offered" where it would be lost
// (they were moved for the next run, too late for this one, or refused, or they are not the node's alone), or null.
// mine: the widgets' values; uses: how many times the node is part of the workflow; current: the record that it holds.
export function fateOf(event, mine, uses, current) {
    const same = mine && Object.entries(mine).every(([name, value]) => event.values[name] === value);
    if (same && uses === 1) return "taken";
    return event.changes !== current ? "offered" : null;
}

// An end is told again to a page that was reloaded; its record may have been taken and forgotten since.
const keyOf = (event, workflow) => `isa-ended ${workflow} ${event.node}`;
const endOf = (event) => `${event.execution} ${event.changes}`;

export const isRemembered = (event, workflow, storage) => storage.getItem(keyOf(event, workflow)) === endOf(event);
export const remember = (event, workflow, storage) => storage.setItem(keyOf(event, workflow), endOf(event));
