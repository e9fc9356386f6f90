"""Examples of instructions: in the menu of the text node, of what the model understands."""

import json
import re

import pytest
from browser_page import drop, from_menu
from comfy_headless import ROOT
from examples import EXAMPLES
from liveditor_isa.checkpoint import included
from liveditor_isa.checkpoint.vocabulary import unknown_words
from safetensors import safe_open

SCRIPT = (ROOT / "web/instruction_menu.js").read_text(encoding="utf-8")
OF_TINY, OF_LARGE = (
    re.findall(r'^    "(.*)",$', re.search(rf"{name} = \[\n(.*?)\];", SCRIPT, re.S)[1], re.M)
    for name in ("OF_TINY", "OF_LARGE")
)
INSTRUCTION = "node => node.type === 'CLIPTextEncode' && node.title !== 'Negative prompt'"
ITEMS = """find => {
    const items = window.app.collectNodeMenuItems(window.app.graph.nodes.find(find)).filter(item => item?.content === 'Examples of instructions');
    return items.flatMap(item => item.submenu.options.map(option => option.content));
}"""


def items(page, find: str) -> list[str]:
    return page.evaluate(ITEMS.replace("find(find)", f"find({find})"))


def test_the_included_model_knows_the_words_of_its_examples():
    with safe_open(included.path_of("text_encoder"), framework="pt") as file:
        known = frozenset(json.loads(file.metadata()["config"])["text_encoder"]["words"])
    assert len(OF_TINY) == 10 and not [word for text in OF_TINY for word in unknown_words(text, known)]
    assert unknown_words(" ".join(OF_LARGE), known)


@pytest.mark.parametrize(("template", "expected"), [("1 First edit, without a GPU", OF_TINY), ("2 LIVEditor-14B", OF_LARGE)])
def test_an_example_becomes_the_instruction(page, template, expected):
    drop(page, EXAMPLES / f"{template}.json", "application/json")
    assert items(page, INSTRUCTION) == expected
    assert items(page, "node => node.title === 'Negative prompt'") == items(page, "node => node.type === 'KSampler'") == []
    from_menu(page, INSTRUCTION, "Examples of instructions", expected[3])
    page.wait_for_function(
        f"text => window.app.graph.nodes.find({INSTRUCTION}).widgets.find(widget => widget.name === 'text').value === text",
        arg=expected[3],
    )


@pytest.mark.parametrize("page", ["canvas nodes"], indirect=True)
def test_other_models_get_none(page):
    drop(page, EXAMPLES / "9 Bernini with ISA.json", "application/json")
    assert items(page, INSTRUCTION) == []
