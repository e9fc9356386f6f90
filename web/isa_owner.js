// Which of the open workflows an execution belongs to: copies of one, of a template say, share the graph's id.
import { app } from "/scripts/app.js";
import { api } from "/scripts/api.js";

const KEY = "isa-executions"; // of this tab of the browser, also after a reload
const MOST = 64;

const paths = new Map(JSON.parse(sessionStorage.getItem(KEY) ?? "[]")); // execution -> the path of its workflow
const workflows = () => app.extensionManager.workflow;
export const openPath = () => workflows()?.activeWorkflow?.path;

// The page shows a workflow's nodes before it says which one is open.
export const isOpening = () => !!window.comfyAPI?.changeTracker?.ChangeTracker?.isLoadingGraph;

// Notes the workflow that is open when a prompt is queued. look: called with the prompt before it is sent.
export function followQueue(look) {
    const { queuePrompt } = api;
    api.queuePrompt = async function (...prompt) {
        const path = openPath();
        look(prompt[1]?.output ?? {});
        const answer = await queuePrompt.apply(this, prompt);
        if (path && answer?.prompt_id) note(answer.prompt_id, path);
        return answer;
    };
}

function note(execution, path) {
    paths.set(execution, path);
    for (const oldest of [...paths.keys()].slice(0, -MOST)) paths.delete(oldest);
    sessionStorage.setItem(KEY, JSON.stringify([...paths]));
}

// Whether an execution is another open workflow's. One whose workflow has got another path, by being saved, is nobody's.
export function isElsewhere(execution) {
    const path = paths.get(execution);
    return !!path && path !== openPath() && !!workflows().getWorkflowByPath(path);
}

// Where the page has filled the graph in the place of the workflow that was open, as where a template is opened twice, the runs so far
// were of what it was before. Not so where a step was undone, or where another workflow turns out to be open once all is loaded.
const before = new Set();
let filled = null; // a path, until that is known
export function graphFilled(shown) {
    filled = openPath() === shown && !workflows()?.activeWorkflow?.changeTracker?._restoringState ? shown : null;
}

export function settleFilled() {
    if (filled === openPath()) for (const [execution, path] of paths) if (path === filled) before.add(execution);
    filled = null;
}

export const isOfBefore = (execution) => before.has(execution);

export const elsewhere = () => [...paths.keys()].filter(isElsewhere);
