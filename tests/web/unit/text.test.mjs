// The panel's words.
import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { web } from "./comfyui.mjs";
import { api, app } from "./comfyui_app.mjs";

const { loadWords, t, titleOf } = await web("isa_text.js");
const { labelsOf, setWords, translate } = await web("isa_words.js");
const { refusals, said, translateEvent, translateRefusal } = await web("isa_server_words.js");

beforeEach(async () => {
    Object.assign(api, { locales: {}, asked: 0 });
    app.language = "en";
    await loadWords();
});

test("values are put into braces, and braces without a value stay", () => {
    assert.equal(t("step {step} of {steps}", { step: 3, steps: 20 }), "step 3 of 20");
    assert.equal(t("{a} {a} {b}", { a: 0 }), "0 0 {b}");
    assert.equal(t("plain"), "plain");
});

test("a value that looks like a placeholder is not filled", () => {
    assert.equal(t("{reason}", { reason: "{reason} $& {b}", b: 1 }), "{reason} $& {b}");
});

test("words are those of the page's language, English where one is missing", async () => {
    app.language = "fr";
    api.locales = { fr: { LIVEditor: { "last step": "dernier pas", "{n} of {m}": "{n} sur {m}" } } };
    await loadWords();
    assert.equal(t("last step"), "dernier pas");
    assert.equal(t("{n} of {m}", { n: 1, m: 2 }), "1 sur 2");
    assert.equal(t("full"), "full");
});

test("a region takes its language's words", async () => {
    app.language = "zh-TW";
    api.locales = { zh: { LIVEditor: { full: "全" } } };
    await loadWords();
    assert.equal(t("full"), "全");
});

for (const [what, locales] of [["without the pack", { ja: {} }], ["without the language", {}], ["without an answer", null]]) {
    test(`a server ${what} leaves English`, async () => {
        app.language = "ja";
        api.locales = locales;
        await loadWords();
        assert.equal(t("full"), "full");
    });
}

test("English asks the server for nothing", async () => {
    app.language = "fr";
    api.locales = { fr: { LIVEditor: { full: "pleine" } }, en: { LIVEditor: { full: "changed" } } };
    await loadWords();
    app.language = "en";
    await loadWords();
    assert.deepEqual([t("full"), api.asked], ["full", 1]);
});

test("one request for all who wait, and one more after a change of the language", async () => {
    app.language = "fr";
    api.locales = { fr: { LIVEditor: { full: "pleine" } }, ja: { LIVEditor: { full: "全" } } };
    await Promise.all([loadWords(), loadWords()]);
    await loadWords();
    assert.deepEqual([t("full"), api.asked], ["pleine", 1]);
    app.language = "ja";
    await loadWords();
    assert.deepEqual([t("full"), api.asked], ["全", 2]);
});

test("words of a language that was left arrive too late", async () => {
    api.locales = { fr: { LIVEditor: { full: "pleine" } } };
    app.language = "fr";
    const late = loadWords();
    app.language = "en";
    await Promise.all([loadWords(), late]);
    assert.equal(t("full"), "full");
});

test("a node is called as the page has it, one that is not there by its type", () => {
    globalThis.window = { LiteGraph: { registered_node_types: { LIVEditorAttachISA: { title: "Attacher ISA" } } } };
    assert.deepEqual(["LIVEditorAttachISA", "Other"].map(titleOf), ["Attacher ISA", "Other"]);
});

test("choices have labels where the language has any", () => {
    setWords({ LIVEditorOptions: { sound: { off: "sans son" } } });
    assert.deepEqual(labelsOf("sound"), { off: "sans son" });
    assert.equal(labelsOf("format"), undefined);
    setWords({});
    assert.equal(labelsOf("sound"), undefined);
});

const TEMPLATES = { "## Edit": "## Éditer", "Press **Run**.": "Appuyez.", "What to change": "Ce qui doit changer" };
const workflow = (note) => ({ nodes: [
    { type: "MarkdownNote", title: "mine", widgets_values: [note] },
    { type: "CLIPTextEncode", title: "What to change", widgets_values: ["What to change"] },
] });

test("a template gets its titles and notes, and keeps what a user wrote", async () => {
    app.language = "fr";
    api.locales = { fr: { LIVEditor: {}, LIVEditorTemplates: TEMPLATES } };
    const opened = workflow("## Edit\n\nPress **Run**.\nMy own line.");
    await loadWords();
    translate(opened);
    assert.deepEqual(opened.nodes[0], { type: "MarkdownNote", title: "mine", widgets_values: ["## Éditer\n\nAppuyez.\nMy own line."] });
    assert.deepEqual(opened.nodes[1], { type: "CLIPTextEncode", title: "Ce qui doit changer", widgets_values: ["What to change"] });
});

test("a subgraph gets its words with the node that stands for it", () => {
    setWords({ LIVEditorTemplates: { ...TEMPLATES, instruction: "consigne" } });
    const inputs = () => [{ name: "text", label: "instruction" }, { name: "seed" }];
    const opened = (note) => ({
        nodes: [{ type: "id", inputs: inputs() }, { type: "other", inputs: inputs() }],
        definitions: { subgraphs: [{ id: "id", inputs: inputs(), ...workflow(note) }] },
    });
    const known = opened("## Edit");
    translate(known);
    const [subgraph] = known.definitions.subgraphs;
    const labels = [subgraph, ...known.nodes].map((each) => each.inputs[0].label);
    assert.deepEqual(labels, ["consigne", "consigne", "instruction"]);
    assert.equal(subgraph.nodes[0].widgets_values[0], "## Éditer");
    const users = opened("Mine");
    translate(users);
    assert.deepEqual(users, opened("Mine"));
});

test("another workflow stays as it is, and so does everything in English", () => {
    for (const [note, words] of [["Mine", { LIVEditorTemplates: TEMPLATES }], ["## Edit", {}]]) {
        setWords(words);
        const opened = workflow(note);
        translate(opened);
        assert.deepEqual(opened, workflow(note));
        translate(null);
    }
});

test("the server's sentences, and what stands in them", () => {
    const text = "2 calls with full attention: outside start_percent to end_percent\nsomething new\nThe context was computed in 1 of 4 model calls, and reused in the others; kept: 1 GB on the GPU";
    assert.equal(said(text), text);
    setWords({ LIVEditor: {
        "{count} calls with full attention: {reason}": "{reason} : {count} appels",
        "outside start_percent to end_percent": "hors plage",
        "The context was computed in {count} of {calls} model calls, and reused in the others; kept: {kept}": "{kept}, {count}/{calls}",
        "{size} GB on the GPU": "{size} Go",
    } });
    assert.equal(said(text), "hors plage : 2 appels\nsomething new\n1 Go, 1/4");
});

const FRENCH = { LIVEditor: {
    "Load LIVEditor, {input}: {fault}. Put {what} there, press R to refresh and pick it.": "{input} : {fault}, {what}",
    "'{file}' is not in models/{folder}": "{file} manque",
    "the LIVEditor checkpoint": "le checkpoint",
    "filename_prefix {prefix} leads out of the output folder: choose a name inside it.": "{prefix} sort",
    "The format has no place for {channels} channels of sound{called}: they are written as {layout}.": "{channels}{called} -> {layout}",
} };

test("errors and notes are translated for all who listen, others' stay", () => {
    setWords(FRENCH);
    const error = { exception_message: "Load LIVEditor, vae: 'a.b' is not in models/vae. Put the LIVEditor checkpoint there, press R to refresh and pick it.\n" };
    translateEvent("execution_error", error);
    assert.equal(error.exception_message, "vae : a.b manque, le checkpoint\n");
    const note = { text: "The format has no place for 3 channels of sound: they are written as stereo.\nmine" };
    translateEvent("progress_text", note);
    assert.equal(note.text, "3 -> stereo\nmine");
    for (const [type, detail] of [["executed", { text: "the LIVEditor checkpoint" }], ["status", null], ["progress_text", {}]]) {
        const before = structuredClone(detail);
        translateEvent(type, detail);
        assert.deepEqual(detail, before);
    }
});

test("full disks and damaged videos, as Python and ffmpeg say them", () => {
    const full = "The disk is full: 0 MB are free in /out/it's. Make room and run again";
    const error = (text) => {
        const detail = { exception_message: `${text}\n` };
        translateEvent("execution_error", detail);
        return detail.exception_message.trimEnd();
    };
    setWords({});
    assert.equal(error(`[Errno 28] ${full}: "/out/it's"`), `${full}.`);
    setWords({ LIVEditor: {
        "The disk is full: {free} MB are free in {folder}. Make room and run again.": "{folder} : {free} Mo",
        "The video cannot be read ({cause}). If a player shows it, convert it to an mp4 with H.264 and load that.": "illisible ({cause})",
        "it is damaged, or no video": "abîmé",
    } });
    assert.equal(error(`[Errno 28] ${full}: "/out/it's"`), "/out/it's : 0 Mo");
    assert.equal(said(`${full}.`), "/out/it's : 0 Mo");
    const video = (cause) => error(`The video cannot be read (${cause}). If a player shows it, convert it to an mp4 with H.264 and load that.`);
    assert.equal(video("it is damaged, or no video: /in/a: b.mp4"), "illisible (abîmé: /in/a: b.mp4)");
    assert.equal(video("it is damaged, or no video"), "illisible (abîmé)");
    assert.equal(video("something new: /in/a.mp4"), "illisible (something new: /in/a.mp4)");
    for (const other of ["[Errno 2] No such file or directory: '/in/a.mp4'", "of another node: /x"]) assert.equal(error(other), other);
});

test("a refusal's sentence stands behind the input's name", () => {
    setWords(FRENCH);
    const details = ["format - filename_prefix '../a - b' leads out of the output folder: choose a name inside it.", "filename_prefix - filename_prefix '../a - b' leads out of the output folder: choose a name inside it.", "seed", "other - words"];
    const answer = { node_errors: { 1: { class_type: "Save", errors: details.map((each) => ({ type: "custom_validation_failed", details: each })) } } };
    const cores = { type: "value_not_in_list", details: "format - filename_prefix x leads out of the output folder: choose a name inside it." };
    answer.node_errors[2] = { class_type: "Save", errors: [{ ...cores }] };
    translateRefusal(answer);
    assert.deepEqual(answer.node_errors[1].errors.map((each) => each.details), ["format - '../a - b' sort", "filename_prefix - '../a - b' sort", "seed", "other - words"]);
    assert.deepEqual(refusals(answer), [{ type: "Save", sentence: "'../a - b' sort" }, { type: "Save", sentence: "words" }]);
    assert.deepEqual(answer.node_errors[2].errors, [cores]);
    assert.deepEqual(refusals(undefined), []);
    translateRefusal({ prompt_id: "x" });
    translateRefusal(undefined);
});
