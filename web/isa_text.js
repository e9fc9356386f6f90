// The panel's words in the page's language: under "LIVEditor" in locales/*/main.json.
import { app } from "/scripts/app.js";
import { api } from "/scripts/api.js";
import { setWords } from "./isa_words.js";

export { t } from "./isa_words.js";

export async function loadWords() {
    const language = app.extensionManager.setting.get("Comfy.Locale") ?? "en";
    if (language === "en") return;
    try {
        const all = await (await api.fetchApi("/i18n")).json();
        setWords(all[language]?.LIVEditor ?? all[language.split("-")[0]]?.LIVEditor ?? {});
    } catch {
        // The page stays in English.
    }
}
