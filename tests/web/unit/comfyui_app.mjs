// Stands in for ComfyUI's app and api, of which tests set what they need.
export const app = { rootGraph: null, language: "en", extensionManager: { setting: { get: () => app.language } } };

export const api = {
    locales: {},
    asked: 0, // how often
    async fetchApi(path) {
        api.asked++;
        if (path !== "/i18n" || !api.locales) throw new Error(`no answer to ${path}`);
        return { json: async () => api.locales };
    },
};
