// The panel's words in one language: English is in the code, the others are given by isa_text.js.
let words = {};

export function setWords(translated) {
    words = translated;
}

// t("step {step} of {steps}", {step: 3, steps: 20})
export function t(text, values = {}) {
    return (words[text] ?? text).replace(/\{(\w+)\}/g, (braced, name) => values[name] ?? braced);
}
