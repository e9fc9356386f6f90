// The server's sentences about a run in the page's language. The server writes English; what is not listed here stays so.
import { NOTICES } from "./isa_server_notices.js";
import { t } from "./isa_words.js";

// Each as the server writes it, a line or what stands in braces.
const SENTENCES = [
    "ISA: {count} attention calls at {density} density, {share} of full attention's arithmetic, on {backend} ({reason})",
    "{count} calls with full attention: {reason}",
    "ISA saw no in-context attention: {reason}",
    "Where ISA acts, it runs on {backend} ({reason})",
    "The context was computed in {count} of {calls} model calls, and reused in the others; kept: {kept}",
    "The context was computed in {count} of {calls} model calls, and reused in none: no two steps were near enough for context_refresh",
    "The context was computed in {count} of {calls} model calls",
    "{size} GB on the GPU and {more} GB in main memory",
    "{size} GB on the GPU",
    "{size} GB in main memory",
    "no context tokens: connect In-Context References to the sampler",
    "{count} tokens are fewer than min_tokens {least}",
    "outside start_percent to end_percent",
    "switched off",
    "Triton needs a GPU, not '{device}'",
    "fastest available",
    "chosen",
];

const PATTERNS = [...SENTENCES, ...NOTICES].map((sentence) => {
    const plain = sentence.replace(/[.*+?^$()|[\]\\]/g, "\\$&");
    return [sentence, new RegExp(`^${plain.replace(/\{(\w+)\}/g, "(?<$1>.*?)")}$`)];
});

function known(text) {
    for (const [sentence, pattern] of PATTERNS) {
        const found = pattern.exec(text);
        if (found) return t(sentence, Object.fromEntries(Object.entries(found.groups ?? {}).map(([name, value]) => [name, line(value)])));
    }
}

// Python's form of an error of the system, whose own sentence has no full stop; and a cause with the file behind it.
const OF_SYSTEM = /^\[Errno \d+\] (.+?)(?:: (?:'.*'|".*"))?$/;
const WITH_FILE = /^(.+?)(: .+)$/;

function line(text) {
    const sentence = OF_SYSTEM.exec(text)?.[1];
    const found = known(text) ?? (sentence && known(`${sentence}.`));
    if (found) return found;
    const [, cause, file] = WITH_FILE.exec(text) ?? [];
    const named = cause && known(cause);
    return named ? named + file : text;
}

export const said = (text) => text.split("\n").map(line).join("\n");

// A message of the server's, {type, detail}, as all who listen shall read it.
export function translateEvent(type, detail) {
    const key = { progress_text: "text", execution_error: "exception_message" }[type];
    if (typeof detail?.[key] === "string") detail[key] = said(detail[key]);
}

// The answer to a prompt that the server refused, in part or as a whole: a node's own errors are "input - sentence".
const OWN = "custom_validation_failed";
const errorsOf = (answer) => Object.values(answer?.node_errors ?? {}).flatMap(({ class_type: type, errors }) =>
    errors.filter((error) => error.type === OWN).map((error) => ({ type, error })));
const SENTENCE = /(?<= - ).+$/s;

export function translateRefusal(answer) {
    for (const { error } of errorsOf(answer)) error.details = error.details.replace(SENTENCE, said);
}

// [{type: of the node, sentence}], each once: the server repeats it for every input.
export function refusals(answer) {
    const found = errorsOf(answer).map(({ type, error }) => ({ type, sentence: error.details.match(SENTENCE)?.[0] }));
    return found.filter(({ sentence }, index) => sentence && found.findIndex((each) => each.sentence === sentence) === index);
}
