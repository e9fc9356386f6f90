// Copies the templates' clip to the server's input folder when a workflow that uses it is opened.
import { app } from "/scripts/app.js";
import { api } from "/scripts/api.js";

const CLIP = "liveditor_sample.mp4"; // beside this file
const FOLDER = "liveditor_clips";
// By node type: the widget that names the clip or its folder, that name, and the clip's place among the inputs.
const USES = {
    LoadVideo: { widget: "file", name: CLIP, subfolder: "" },
    LoadVideoDataSetFromFolder: { widget: "folder", name: FOLDER, subfolder: FOLDER },
};

const there = new Set(); // names that the server had when a workflow was opened last

// The uses that a workflow, or a subgraph in it, makes of the clip.
function usesOf(workflow) {
    const graphs = [workflow, ...(workflow?.definitions?.subgraphs ?? [])];
    const nodes = graphs.flatMap((graph) => graph?.nodes ?? []);
    return Object.entries(USES).filter(([type, { name }]) => nodes.some((node) => node?.type === type && Object.values(node.widgets_values ?? {}).includes(name)));
}

// Whether the server has a use's clip now. A file of that name which is there already stays as it is, and so does a folder, whose clips
// are the user's.
async function bring([type, { widget, name, subfolder }]) {
    if (subfolder) {
        const offered = (await (await api.fetchApi(`/object_info/${type}`)).json())[type]?.input?.required?.[widget]?.[1]?.options;
        if (!offered) return false; // a ComfyUI without the node
        if (offered.includes(name)) return true;
    } else {
        const found = await api.fetchApi(`/view?${new URLSearchParams({ filename: CLIP, type: "input" })}`, { method: "HEAD" });
        if (found.status !== 404) return found.ok;
    }
    const clip = await fetch(new URL(`./${CLIP}`, import.meta.url));
    if (!clip.ok) return false;
    const form = new FormData();
    form.append("image", new File([await clip.blob()], CLIP, { type: "video/mp4" }));
    form.append("subfolder", subfolder);
    const answer = await api.fetchApi("/upload/image", { method: "POST", body: form });
    return answer.ok && (await answer.json()).name === CLIP;
}

app.registerExtension({
    name: "LIVEditor.SampleClip",
    // The page awaits this before it creates the nodes and checks for missing files.
    async beforeConfigureGraph(workflow) {
        there.clear();
        for (const use of usesOf(workflow)) {
            try {
                if (await bring(use)) there.add(use[1].name);
            } catch (error) {
                console.warn("LIVEditor:", error); // the page itself reports the missing file
            }
        }
    },
    nodeCreated(node) {
        const use = USES[node.comfyClass];
        if (!use) return;
        const configured = node.onConfigure;
        node.onConfigure = function (...args) {
            // The page read its list of files at its start.
            const widget = this.widgets?.find((each) => each.name === use.widget);
            const offered = widget?.options?.values;
            if (there.has(use.name) && widget?.value === use.name && Array.isArray(offered) && !offered.includes(use.name)) offered.push(use.name);
            return configured?.apply(this, args);
        };
    },
});
