// Copies the templates' clip to the server's input folder when a workflow that uses it is opened.
import { app } from "/scripts/app.js";
import { api } from "/scripts/api.js";

const CLIP = "liveditor_sample.mp4"; // beside this file
const NODE = "LoadVideo";

let there = false; // whether the server had it when a workflow was opened last

// Whether a workflow, or a subgraph in it, loads the clip.
function loadsClip(workflow) {
    const graphs = [workflow, ...(workflow?.definitions?.subgraphs ?? [])];
    const nodes = graphs.flatMap((graph) => graph?.nodes ?? []);
    return nodes.some((node) => node?.type === NODE && Object.values(node.widgets_values ?? {}).includes(CLIP));
}

// Whether the server has the clip now. A file of that name which is there already stays as it is.
async function bring() {
    const found = await api.fetchApi(`/view?${new URLSearchParams({ filename: CLIP, type: "input" })}`, { method: "HEAD" });
    if (found.status !== 404) return found.ok;
    const clip = await fetch(new URL(`./${CLIP}`, import.meta.url));
    if (!clip.ok) return false;
    const form = new FormData();
    form.append("image", new File([await clip.blob()], CLIP, { type: "video/mp4" }));
    const answer = await api.fetchApi("/upload/image", { method: "POST", body: form });
    return answer.ok && (await answer.json()).name === CLIP;
}

app.registerExtension({
    name: "LIVEditor.SampleClip",
    // The page awaits this before it creates the nodes and checks for missing files.
    async beforeConfigureGraph(workflow) {
        if (!loadsClip(workflow)) return;
        try {
            there = await bring();
        } catch (error) {
            there = false;
            console.warn("LIVEditor:", error); // the page itself reports the missing file
        }
    },
    nodeCreated(node) {
        if (node.comfyClass !== NODE) return;
        const configured = node.onConfigure;
        node.onConfigure = function (...args) {
            // The page read its list of files at its start.
            const widget = this.widgets?.find((each) => each.name === "file");
            const files = widget?.options?.values;
            if (there && widget?.value === CLIP && Array.isArray(files) && !files.includes(CLIP)) files.push(CLIP);
            return configured?.apply(this, args);
        };
    },
});
