// Requests to the pack's own routes.
import { api } from "/scripts/api.js";
import { said } from "./isa_server_words.js";
import { t } from "./isa_text.js";

// The server's answer; {error, status} if it refuses, {error} if there is no answer.
export async function post(path, body) {
    try {
        const answer = await api.fetchApi(`/liveditor_isa/${path}`, {
            method: "POST",
            headers: { "Content-Type": "application/json" },
            body: JSON.stringify(body),
        });
        const content = await answer.json();
        return answer.ok ? content : { error: said(content.error ?? answer.statusText), status: answer.status };
    } catch {
        return { error: t("The server does not answer.") };
    }
}
