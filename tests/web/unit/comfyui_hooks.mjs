// What the page's modules import of ComfyUI is in comfyui_app.mjs; and web/*.js are modules, as they are to a browser.
export async function resolve(specifier, context, next) {
    if (!specifier.startsWith("/scripts/")) return next(specifier, context);
    return { url: new URL("./comfyui_app.mjs", import.meta.url).href, shortCircuit: true };
}

export async function load(url, context, next) {
    return next(url, /\/web\/[^/]+\.js$/.test(url) ? { ...context, format: "module" } : context);
}
