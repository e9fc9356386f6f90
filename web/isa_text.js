// The panel's words in the page's language: English is in the code, the rest under "LIVEditor" in locales/*/main.json.
import { app } from "/scripts/app.js";
import { api } from "/scripts/api.js";

let words = {};

export async function loadWords() {
    const language = app.extensionManager.setting.get("Comfy.Locale") ?? "en";
    if (language === "en") return;
    try {
        const all = await (await api.fetchApi("/i18n")).json();
        words = all[language]?.LIVEditor ?? all[language.split("-")[0]]?.LIVEditor ?? {};
    } catch {
        // English will do.
    }
}

// t("step {step} of {steps}", {step: 3, steps: 20})
export function t(text, values = {}) {
    return (words[text] ?? text).replace(/\{(\w+)\}/g, (braced, name) => values[name] ?? braced);
}
