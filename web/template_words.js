// Titles and notes of the pack's templates, in the page's language.
import { app } from "/scripts/app.js";
import { loadWords } from "./isa_text.js";
import { translate } from "./isa_words.js";

app.registerExtension({
    name: "LIVEditor.TemplateWords",
    // The page awaits this before it creates the nodes.
    async beforeConfigureGraph(workflow) {
        await loadWords();
        translate(workflow);
    },
});
