"""The pack in six languages: complete, nothing superfluous, and shown by the real page."""

import json
import re
import shutil

import pytest
from comfy_headless import ROOT
from setup import BROWSER
from test_package import all_inputs, schemas  # noqa: F401
from test_page import browser, drop, open_page, wait_for_nodes  # noqa: F401
from test_server import EXAMPLES

LANGUAGES = ("en", "zh", "ja", "ko", "fr", "es")
translated = pytest.mark.parametrize("language", LANGUAGES[1:])

SCRIPTS = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "web").glob("*.js")}
SAID = {text for script in SCRIPTS.values() for text in re.findall(r'\bt\("([^"]*)"', script)}
# Those that reach t() through a variable.
SAID |= set(re.findall(r'slider\("\w+", "([^"]+)"\)', SCRIPTS["isa_heatmap.js"]))
SAID |= set(re.findall(r': "([^"]+)"', re.search(r"LAYERS = \{(.*?)\}", SCRIPTS["isa_heatmap.js"])[1]))


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


def test_english_is_what_the_code_says(schemas):  # noqa: F811
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
    assert shape(locale(language, "main")).keys() == {"LIVEditor", *locale("en", "main")}


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_can_read_them_all(language):
    """What its translator takes for its own signs: linked messages, placeholders, plurals."""
    for name in ("nodeDefs", "settings", "commands"):
        assert not [text for text in texts(locale(language, name)) if re.search(r"[@{}|]", text)]


@pytest.mark.skipif(not shutil.which(BROWSER), reason=f"needs {BROWSER}")
def test_the_page_in_japanese(browser, server):  # noqa: F811
    server.post("/settings", {"Comfy.Locale": "ja"})
    try:
        page = open_page(browser, server, vue=False)
        drop(page, EXAMPLES / "liveditor_edit_video.json", "application/json")
        wait_for_nodes(page, 12)
        page.get_by_text("全注意の計算量の").first.wait_for(timeout=20_000)
        assert page.evaluate("() => app.graph.nodes.find(node => node.type === 'LIVEditorAttachISA').title") == "ISA を付加"
        page.close()
    finally:
        server.post("/settings", {"Comfy.Locale": "en"})
