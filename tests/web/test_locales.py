"""The pack in six languages: complete, nothing superfluous, and shown by the real page."""

import ast
import json
import re
import urllib.request
from collections import Counter

import pytest
import torch
from browser_page import drop, open_page
from comfy_headless import COMFYUI, ROOT
from examples import EXAMPLES
from liveditor_isa.checkpoint import included
from liveditor_isa.data.procedural.styles import GRADES
from liveditor_isa.isa_core import ISAConfig, TokenLayout, resolve_backend
from liveditor_isa.kernels import unavailable_reason
from liveditor_isa.runtime import decisions
from liveditor_isa.runtime.decisions import Decisions
from liveditor_isa.runtime.live import Settings
from liveditor_isa.runtime.report import RunReport
from liveditor_isa.runtime.schedule import Schedule
from liveditor_isa.video.writing.formats import FORMATS

LANGUAGES = ("en", "zh", "ja", "ko", "fr", "es")
translated = pytest.mark.parametrize("language", LANGUAGES[1:])
HELP = ROOT / "web/docs"

SCRIPTS = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "web").glob("*.js")}
SAID = {text for script in SCRIPTS.values() for text in re.findall(r'\bt\("([^"]*)"', script)}
# Those that reach t() through a variable.
SAID |= set(re.findall(r'slider\("\w+", "([^"]+)"\)', SCRIPTS["isa_heatmap.js"]))
SAID |= set(re.findall(r': "([^"]+)"', re.search(r"LAYERS = \{(.*?)\}", SCRIPTS["isa_heatmap.js"])[1]))
PRESETS = re.findall(r"^    (\w+): \{$", SCRIPTS["isa_presets.js"], re.M)
SAID |= set(PRESETS)
SERVERS = re.findall(r'^    "(.*)",$', SCRIPTS["isa_server_words.js"], re.M)
SAID |= set(SERVERS)
NOTICES = [json.loads(line) for line in re.findall(r'^    (".*"),$', SCRIPTS["isa_server_notices.js"], re.M)]
SAID |= set(NOTICES)
GPUS = "fastest available"
"""The one that takes a GPU."""
UNTRANSLATED = "VAE"
FILES = ("| [", "|---")
"""How the rows of a note begin that names the files."""


def locale(language: str, name: str) -> dict:
    return json.loads((ROOT / "locales" / language / f"{name}.json").read_text(encoding="utf-8"))


def texts(entry) -> list[str]:
    return [entry] if isinstance(entry, str) else [text for value in entry.values() for text in texts(value)]


def shape(entry):
    """The keys alone."""
    return None if isinstance(entry, str) else {key: shape(value) for key, value in entry.items()}


def in_english(schema) -> dict:
    """A node in core's format, which has no dots in its keys."""
    inputs = {entry.id: entry for entry in schema.inputs}
    for entry in schema.inputs:
        for option in getattr(entry, "options", None) or []:
            inputs |= {f"{entry.id}_{inner.id}": inner for inner in getattr(option, "inputs", [])}
    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": {key: {"name": entry.id, "tooltip": entry.tooltip} for key, entry in inputs.items()},
        "outputs": {
            str(slot): {"name": output.display_name or output.io_type, "tooltip": output.tooltip}
            for slot, output in enumerate(schema.outputs)
        },
    }


def test_english_is_what_the_code_says(schemas):
    assert locale("en", "nodeDefs") == {schema.node_id: in_english(schema) for schema in schemas}
    script = SCRIPTS["attach_isa.js"]
    for key, entry in (locale("en", "settings") | locale("en", "commands")).items():
        assert f'id: "{key.replace("_", ".", 1)}"' in script
        for text in texts(entry):
            assert f'"{text}"' in script
    assert len(re.findall(r'id: "LIVEditor\.', script)) == len(locale("en", "settings") | locale("en", "commands"))


@translated
@pytest.mark.parametrize("name", ["nodeDefs", "settings", "commands"])
def test_every_language_says_all_that_english_says(language, name):
    english, found = locale("en", name), locale(language, name)
    assert shape(found) == shape(english) and all(text.strip() for text in texts(found))


@translated
def test_no_text_was_left_in_english(language):
    for node, english in locale("en", "nodeDefs").items():
        found = locale(language, "nodeDefs")[node]
        for part in ("inputs", "outputs"):
            for key, entry in english[part].items():
                # Names are those of the help and of saved workflows.
                assert found[part][key]["name"] == entry["name"] and found[part][key]["tooltip"] != entry["tooltip"]
        assert found["display_name"] != english["display_name"] and found["description"] != english["description"]


@translated
def test_the_panels_words(language):
    words = locale(language, "main")["LIVEditor"]
    assert words.keys() == SAID
    for english, found in words.items():
        assert set(re.findall(r"\{\w+\}", found)) == set(re.findall(r"\{\w+\}", english))
        assert found != english
    assert shape(locale(language, "main")).keys() == {
        "LIVEditor",
        "LIVEditorOptions",
        "LIVEditorTemplates",
        *locale("en", "main"),
    }


NAMES = {"variance", "top_mass", "torch", "triton", "8-bit", *FORMATS} - {"png sequence"}
"""Choices that have one name in every language."""


def choices(schemas) -> dict[str, set[str]]:
    """Of each widget, but for files of this machine and names."""
    found = {}
    for entry in (entry for schema in schemas for entry in schema.inputs):
        values = [getattr(option, "key", option) for option in getattr(entry, "options", None) or []]
        values += [getattr(entry, state, None) for state in ("label_on", "label_off")]
        if included.NAME in values:
            values = [included.NAME]
        if values := {value for value in values if value and value not in NAMES and not value.startswith("fp8_")}:
            found[entry.id] = values
    return found


@translated
def test_every_choice_has_a_label_with_which_the_help_can_be_read(language, schemas):
    labels = locale(language, "main")["LIVEditorOptions"]
    assert {widget: {*values} for widget, values in labels.items()} == choices(schemas)
    for widget, values in labels.items():
        node = next(schema.node_id for schema in schemas if widget in {entry.id for entry in schema.inputs})
        tooltips = [entry["tooltip"] for entry in locale(language, "nodeDefs")[node]["inputs"].values()]
        named = re.findall(r"[`*]([^`*\n]+)[`*]", (HELP / node / f"{language}.md").read_text(encoding="utf-8"))
        for value, label in values.items():
            assert label != value and len({*values.values()}) == len(values)
            said = value in named or (value.isascii() and any(re.search(rf"(?a:\b){value}(?a:\b)", text) for text in tooltips))
            assert value in label or value in ("source", "on", "off") or not said, (widget, value)


def test_the_servers_sentences_are_those_that_the_page_knows():
    """What a run says, and why attention stays full."""
    cpu, most = torch.device("cpu"), 10**9
    reason, plain = unavailable_reason(cpu), Decisions(Settings(ISAConfig()), Schedule(min_tokens=1000))
    few = plain.reason_for_full(TokenLayout(8, (8,)), 0, 2)
    lines = [reason, few, decisions.SWITCHED_OFF, decisions.no_context(), resolve_backend("torch", cpu)[1]]
    lines += [f"Where ISA acts, it runs on torch ({reason})", RunReport().summary(ISAConfig(), nothing=decisions.no_context())]
    for refreshed, reused, held in ((6, 6, (most, 0)), (6, 6, (0, most)), (6, 6, (most, most)), (6, 0, (0, 0)), (1, 0, (0, 0))):
        report = RunReport()
        report.backend, report.dense, report.sparse_calls = ("torch", reason), ("caller", ""), 8
        report._sums = {cpu: torch.tensor([3.2, 2.8, 1.6])}
        report.refreshed, report.reused, report.most_held = refreshed, reused, held
        report.full[decisions.OUTSIDE_SCHEDULE] = 4
        lines += [*report.full, *report.summary(ISAConfig()).split("\n")]
        lines += [lines[-1].partition("kept: ")[2]] * bool(reused)
    patterns = {each: re.sub(r"\\\{\w+\\\}", ".*?", re.escape(each)) for each in SERVERS}
    found = {line: next((each for each, pattern in patterns.items() if re.fullmatch(pattern, line)), None) for line in lines}
    assert None not in found.values(), found
    assert {*SERVERS} - {*found.values()} == {GPUS} and f'"{GPUS}"' in (ROOT / "isa_core/backend.py").read_text(
        encoding="utf-8"
    )


def sentence_of(node: ast.expr) -> str | None:
    """A string of the code's, {} for each value, or several on end, in it; None for what is no string."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return re.sub(r"(\{\})+", "{}", "".join(sentence_of(part) or "{}" for part in node.values))
    return None


def test_the_notices_are_those_that_the_code_has():
    """So that a sentence that is changed is changed in all languages."""
    folders = ("nodes", "comfyui", "checkpoint", "video", "runtime", "isa_core", "kernels")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")] + [COMFYUI / "execution.py"]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in paths]
    code = {sentence_of(node) for tree in trees for node in ast.walk(tree) if isinstance(node, (ast.Constant, ast.JoinedStr))}
    # Errors of the system get their full stop where they are shown (`errors.sentence`).
    code |= {f"{each}." for each in code if each}
    unknown = [each for each in NOTICES if re.sub(r"(\{\w+\})+", "{}", each) not in code]
    assert not unknown and len({*NOTICES, *SERVERS}) == len(NOTICES) + len(SERVERS)


def graphs_of_templates() -> dict[str, dict]:
    """By name; the blueprint's inside as well."""
    saved = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in EXAMPLES.glob("*.json")}
    [blueprint] = (ROOT / "subgraphs").glob("*.json")
    [inside] = json.loads(blueprint.read_text(encoding="utf-8"))["definitions"]["subgraphs"]
    return saved | {blueprint.stem: inside}


def words_of_templates() -> set[str]:
    """Titles, the lines of notes, and labels; the blueprint's too, but for its name."""
    saved = graphs_of_templates().values()
    found = {slot.get("label") for graph in saved for slot in graph.get("inputs", [])}
    for graph in saved:
        for node in graph["nodes"]:
            note = node["widgets_values"][0] if node["type"] == "MarkdownNote" else ""
            found |= {node.get("title"), *(line for line in note.split("\n") if not line.startswith(FILES))}
    return found - {None, "", UNTRANSLATED}


@translated
def test_the_templates_words(language):
    """To change a line of a note, change it in each language as well."""
    words = locale(language, "main")["LIVEditorTemplates"]
    assert words.keys() == words_of_templates()
    for english, found in words.items():
        assert found != english
        assert Counter(re.findall(r"`[^`]+`|\d+×\d+", found)) == Counter(re.findall(r"`[^`]+`|\d+×\d+", english)), english
        assert {*re.findall(r"\*\*([a-z]+_[a-z_]+)\*\*", found)} == {*re.findall(r"\*\*([a-z]+_[a-z_]+)\*\*", english)}
        assert re.match(r"#*|\d\.|-", found)[0] == re.match(r"#*|\d\.|-", english)[0]


@pytest.mark.parametrize("language", LANGUAGES)
def test_notes_number_and_name_nodes_as_the_page_does(language):
    """A list that is numbered goes along the nodes that are; elsewhere a node's number stands in its name."""
    words = locale(language, "main").get("LIVEditorTemplates", {})
    for name, graph in graphs_of_templates().items():
        titles = {words.get(node.get("title"), node.get("title")) for node in graph["nodes"]}
        notes = [node["widgets_values"][0] for node in graph["nodes"] if node["type"] == "MarkdownNote"]
        for line in (words.get(line, line) for note in notes for line in note.split("\n")):
            listed = [f"{number} · {title}" for number, title in re.findall(r"^(\d+)\. (?:\*\*(.*?)\*\*)?", line)]
            assert {*listed, *re.findall(r"\*(\d+ · [^*]+)\*", line)} <= titles, (name, line)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_titles_of_collapsed_nodes_are_shown_whole(language):
    """Of a node that is collapsed the canvas draws 20 characters of the title."""
    words = locale(language, "main").get("LIVEditorTemplates", {})
    nodes = [node for graph in graphs_of_templates().values() for node in graph["nodes"] if node["flags"].get("collapsed")]
    assert nodes and [title for node in nodes if len(title := words.get(node["title"], node["title"])) > 20] == []


@translated
def test_what_notes_emphasise_is_emphasised(language):
    """Markdown takes no ** for the end that has a full stop before it and a letter behind it, as sentences without spaces have."""
    for line in locale(language, "main")["LIVEditorTemplates"].values():
        places = [*re.finditer(r"\*+", re.sub(r"`[^`]*`", "code", line))]
        for end in places[1::2]:
            before, behind = end.string[end.start() - 1], end.string[end.end() :][:1]
            assert len(places) % 2 == 0 and (before.isalnum() or not behind.isalnum()), line


def without_grades(texts: dict[str, str]) -> list[str]:
    """Which of the texts that name a style do not name all grades of colour; in instructions both are English."""
    listing = {name: re.sub(r"\s+", " ", text) for name, text in texts.items() if "sepia" in text or "teal" in text}
    assert listing
    return [name for name, text in listing.items() if not all(grade in text for grade in GRADES)]


def test_notes_say_which_grades_the_included_model_knows():
    assert without_grades({path.stem: path.read_text(encoding="utf-8") for path in EXAMPLES.glob("*.json")}) == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_help_and_translated_notes_say_which_grades_the_included_model_knows(language):
    page = HELP / "LIVEditorLoad.md" if language == "en" else HELP / f"LIVEditorLoad/{language}.md"
    words = locale(language, "main").get("LIVEditorTemplates", {})
    notes = {english: found for english, found in words.items() if "teal" in english}
    assert without_grades({"help": page.read_text(encoding="utf-8"), **notes}) == []


@translated
def test_sentences_and_help_name_presets_as_their_buttons_do(language):
    words = locale(language, "main")["LIVEditor"]
    names = [words[preset] for preset in PRESETS]
    assert len(PRESETS) == len({*names}) == 5
    page = (HELP / f"LIVEditorAttachISA/{language}.md").read_text(encoding="utf-8")
    assert [name for name in re.findall(r"^\| \*\*([^*]+)\*\* \|", page, re.M) if name in names] == names
    for text in [page, *words.values(), *locale(language, "main")["LIVEditorTemplates"].values()]:
        assert not {*re.findall(r"[A-Za-z]+", text)} & {*PRESETS} - {*names, "Exact"}, text


def outline(page: str) -> dict:
    """What a help page has in every language: its parts, counted, and what is not translated."""
    return {
        "headings": re.findall(r"^#+(?= )", page, re.M),
        "rows": [row.count(" | ") for row in re.findall(r"^\|.*", page, re.M)],
        "list items": re.findall(r"^(?:-|\d\.)(?= )", page, re.M),
        "code": Counter(re.findall(r"`[^`]+`", page)),
        "inputs": set(re.findall(r"\*\*([a-z]+(?:_[a-z]+)*)\*\*", page)),
    }


@translated
def test_help_says_in_every_language_what_it_says_in_english(language):
    for node in locale("en", "nodeDefs"):
        english = (HELP / f"{node}.md").read_text(encoding="utf-8")
        found = (HELP / node / f"{language}.md").read_text(encoding="utf-8")
        assert outline(found) == outline(english), node
        assert found.startswith(f"# {locale(language, 'nodeDefs')[node]['display_name']}\n")
        prose = [line for line in found.splitlines() if len(line) > 40]
        assert not set(prose) & set(english.splitlines())


@pytest.mark.parametrize("language", LANGUAGES)
def test_help_gives_the_included_model_the_guidance_of_its_template(language):
    """2.5 is LIVEditor-14B's, of which this page says nothing."""
    nodes = json.loads((EXAMPLES / "1 First edit, without a GPU.json").read_text(encoding="utf-8"))["nodes"]
    sampler = next(node for node in nodes if node["type"] == "KSampler")
    page = HELP / "LIVEditorLoad.md" if language == "en" else HELP / "LIVEditorLoad" / f"{language}.md"
    assert re.findall(r"cfg ([\d.]*\d)", page.read_text(encoding="utf-8")) == [str(sampler["widgets_values"][3])]


def test_there_is_no_help_without_a_node():
    pages = {f"{node}/{language}.md" for node in locale("en", "nodeDefs") for language in LANGUAGES[1:]}
    assert {path.relative_to(HELP).as_posix() for path in HELP.glob("*/*")} == pages


def test_the_server_has_help_where_the_page_asks_for_it(server):
    nodes = server.get("/object_info")
    for node in locale("en", "nodeDefs"):
        # The front end's own rule; where the first is not found, as for English, it takes the second.
        folder = f"{server.url}/extensions/{nodes[node]['python_module'].split('.')[1]}/docs/{node}"
        for address in [f"{folder}/{language}.md" for language in LANGUAGES[1:]] + [f"{folder}.md"]:
            with urllib.request.urlopen(address, timeout=30) as answer:
                # A page of HTML it would take for "not found".
                assert answer.status == 200 and answer.headers.get_content_type() != "text/html"
                assert answer.read() == (HELP / address.split("/docs/")[1]).read_bytes()


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_can_read_them_all(language):
    """What its translator takes for its own signs: linked messages, placeholders, plurals."""
    for name in ("nodeDefs", "settings", "commands"):
        assert not [text for text in texts(locale(language, name)) if re.search(r"[@{}|]", text)]


def test_the_page_in_japanese(browser, server):
    server.post("/settings", {"Comfy.Locale": "ja"})
    try:
        page = open_page(browser, server, vue=False)
        drop(page, EXAMPLES / "2 LIVEditor-14B.json", "application/json")
        page.get_by_text("全注意の計算量の").first.wait_for(timeout=60_000)
        assert (
            page.evaluate("() => app.graph.nodes.find(node => node.type === 'LIVEditorAttachISA').title")
            == "ISA を付加（スパース注意）"
        )
        page.get_by_role("button", name="バランス").wait_for(state="attached")
        note = page.evaluate("() => app.graph.nodes.find(node => node.type === 'MarkdownNote').widgets[0].value")
        assert note.startswith("## LIVEditor-14B で動画を編集\n") and "this project" not in note
        assert "3 · 何を変えるか" in page.evaluate("() => app.graph.nodes.map(node => node.title)")
        page.evaluate("() => app.canvas.selectNode(app.graph.nodes.find(node => node.type === 'LIVEditorAttachISA'))")
        # Not a real click: messages about models that are missing here may lie over it.
        page.get_by_test_id("info-button").dispatch_event("click")
        page.get_by_role("heading", name="どのスライダーを動かすか").wait_for(timeout=60_000)
        page.close()
    finally:
        server.post("/settings", {"Comfy.Locale": "en"})
