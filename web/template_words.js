// Titles, notes and labels of the pack's templates and its blueprint, in the page's language.
import { app } from "/scripts/app.js";
import { loadWords } from "./isa_text.js";
import { translate } from "./isa_words.js";

app.registerExtension({
    name: "LIVEditor.TemplateWords",
    setup() {
        // The page puts a blueprint into the open workflow as it pastes nodes, and asks nobody before.
        const { _deserializeItems: place } = app.canvas;
        if (place)
            app.canvas._deserializeItems = function (items, ...others) {
                translate({ nodes: items?.nodes, definitions: { subgraphs: items?.subgraphs } });
                return place.call(this, items, ...others);
            };
    },
    // The page awaits this before it creates the nodes.
    async beforeConfigureGraph(workflow) {
        await loadWords();
        translate(workflow);
    },
});
