// The panel's words in the page's language: under "LIVEditor" in locales/*/main.json; those of the templates: under "LIVEditorTemplates".
import { app } from "/scripts/app.js";
import { api } from "/scripts/api.js";
import { setWords } from "./isa_words.js";

export { t } from "./isa_words.js";

// Has the panel speak the page's language; gives the templates' words, {English: translated}.
export async function loadWords() {
    const language = app.extensionManager.setting.get("Comfy.Locale") ?? "en";
    if (language === "en") return {};
    try {
        const all = await (await api.fetchApi("/i18n")).json();
        const found = all[language]?.LIVEditor ? all[language] : (all[language.split("-")[0]] ?? {});
        setWords(found.LIVEditor ?? {});
        return found.LIVEditorTemplates ?? {};
    } catch {
        return {}; // The page stays in English.
    }
}
