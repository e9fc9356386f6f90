// The server's sentences in the page's language: before anyone, core's own widgets and dialogs too, reads them. Errors of the pack's
// nodes are shown as messages, because core has them in a report, or behind a sign, that one has to open.
import { app } from "/scripts/app.js";
import { api } from "/scripts/api.js";
import { refusals, translateEvent, translateRefusal } from "./isa_server_words.js";
import { titleOf } from "./isa_text.js";

function tell(type, detail) {
    if (!type?.startsWith("LIVEditor")) return;
    app.extensionManager.toast.add({ severity: "error", summary: titleOf(type), detail, life: 15000 });
}

function refused(answer) {
    translateRefusal(answer);
    for (const { type, sentence } of refusals(answer)) tell(type, sentence);
}

app.registerExtension({
    name: "LIVEditor.ServerSentences",
    setup() {
        api.addEventListener("execution_error", ({ detail }) => tell(detail.node_type, detail.exception_message.trim()));
        // No listener: one may come after core's, because plain event targets call them in the order of their registration.
        const { dispatchCustomEvent, queuePrompt } = api;
        api.dispatchCustomEvent = function (type, detail) {
            translateEvent(type, detail);
            return dispatchCustomEvent.call(this, type, detail);
        };
        api.queuePrompt = async function (...prompt) {
            try {
                const answer = await queuePrompt.apply(this, prompt);
                refused(answer);
                return answer;
            } catch (error) {
                refused(error.response);
                throw error;
            }
        };
    },
});
