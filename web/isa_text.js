// The words of the page's language.
import { app } from "/scripts/app.js";
import { api } from "/scripts/api.js";
import { setWords } from "./isa_words.js";

export { t } from "./isa_words.js";

// What a type of nodes is called.
export const titleOf = (type) => window.LiteGraph.registered_node_types[type]?.title ?? type;

// What locales/*/main.json has for a language; {} for English.
async function readWords(language) {
    if (language === "en") return {};
    try {
        const all = await (await api.fetchApi("/i18n")).json();
        return all[language]?.LIVEditor ? all[language] : (all[language.split("-")[0]] ?? {});
    } catch {
        return {}; // The page stays in English.
    }
}

let spoken, loading;

// Has the pack speak the page's language, which may have changed: the page then opens its workflow anew. All wait for one request.
export function loadWords() {
    const language = app.extensionManager.setting.get("Comfy.Locale") ?? "en";
    if (language !== spoken) {
        spoken = language;
        loading = readWords(language).then((found) => language === spoken && setWords(found));
    }
    return loading;
}
