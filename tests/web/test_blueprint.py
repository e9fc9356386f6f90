"""The blueprint as users add it, from the node library: in the page's language, with presets and Compare in its node's menu."""

import json

import pytest
from browser_page import WAYS, click_until, from_menu, opened_page, prompt_of
from comfy_headless import ROOT
from examples import EXAMPLES

WORDS = json.loads((ROOT / "locales/fr/main.json").read_text(encoding="utf-8"))
TITLES = json.loads((ROOT / "locales/fr/nodeDefs.json").read_text(encoding="utf-8"))
HOST = "node => node.subgraph"
NAME = "Edit video (LIVEditor + ISA)"


@pytest.fixture(params=WAYS)
def placed(browser, server, request):
    """The French page with the blueprint on its canvas."""
    server.post("/settings", {"Comfy.Locale": "fr"})
    try:
        with opened_page(browser, server, request.param) as page:
            page.evaluate("() => window.app.graph.clear()")
            page.get_by_role("button", name="Nœuds").first.click()
            page.get_by_role("searchbox").or_(page.get_by_placeholder("Rechercher")).first.fill(NAME)
            page.get_by_text(NAME).last.click()
            page.mouse.move(800, 150)
            there = "() => window.app.graph.nodes.some(node => node.subgraph)"
            click_until(lambda: page.mouse.click(810, 160), lambda ms: page.wait_for_function(there, timeout=ms))
            page.get_by_role("button", name="Nœuds").first.click()
            yield page
    finally:
        server.post("/settings", {"Comfy.Locale": "en"})


def test_its_isa_is_set_as_in_the_first_template():
    """So it acts with LIVEditor-tiny, the blueprint's own model too."""
    blueprint, template = (
        json.loads(path.read_text(encoding="utf-8"))
        for path in (ROOT / "subgraphs" / f"{NAME}.json", EXAMPLES / "1 First edit, without a GPU.json")
    )
    (subgraph,) = blueprint["definitions"]["subgraphs"]
    (mine,), (its,) = (
        [node["widgets_values"] for node in graph["nodes"] if node["type"] == "LIVEditorAttachISA"]
        for graph in (subgraph, template)
    )
    assert mine == its


def test_it_speaks_french(placed):
    host = placed.evaluate(
        """() => {
            const host = window.app.graph.nodes.find(node => node.subgraph);
            return {
                labels: host.inputs.map(input => input.label),
                titles: host.subgraph.nodes.map(node => node.title),
                note: host.subgraph.nodes.find(node => node.type === 'MarkdownNote').widgets[0].value,
                models: host.widgets.find(widget => widget.name === 'vae').options.getOptionLabel?.('LIVEditor-tiny (included)'),
            };
        }"""
    )
    templates = WORDS["LIVEditorTemplates"]
    assert {templates["instruction"], templates["negative"]} <= {*host["labels"]}
    assert templates["3 · What to change"] in host["titles"]
    assert host["note"].startswith(templates["## For LIVEditor-14B"])
    assert host["models"] == WORDS["LIVEditorOptions"]["vae"]["LIVEditor-tiny (included)"]


CONNECT = """() => {
    const { graph } = window.app, host = graph.nodes.find(node => node.subgraph), image = window.LiteGraph.createNode('LoadImage');
    graph.add(image);
    for (const [output, name] of ['reference', 'mask'].entries()) image.connect(output, host, host.inputs.findIndex(input => input.name === name));
    for (const [name, value] of [['width', 160], ['height', 96]]) host.widgets.find(widget => widget.name === name).value = value;
    const references = host.subgraph.nodes.find(node => node.type === 'LIVEditorInContextReferences');
    window.choose = value => {
        const widget = references.widgets.find(each => each.name === 'size');
        widget.value = value;
        widget.callback?.(value);
    };
    return String(image.id);
}"""


def test_size_reference_and_mask_are_set_from_outside(placed):
    def inputs(type: str) -> dict:
        [found] = [node["inputs"] for node in prompt_of(placed).values() if node["class_type"] == type]
        return {name: found[name] for name in ("size.width", "size.height", "references.reference_0", "mask") if name in found}

    assert inputs("LIVEditorInContextReferences") == {"size.width": 320, "size.height": 176}
    assert inputs("LIVEditorDecodeVideo") == {}
    image = placed.evaluate(CONNECT)
    outside = {"size.width": 160, "size.height": 96, "references.reference_0": [image, 0]}
    assert inputs("LIVEditorInContextReferences") == outside
    assert inputs("LIVEditorDecodeVideo") == {"mask": [image, 1]}
    # A size that the video decides, chosen inside, as the note says for LIVEditor-14B.
    placed.evaluate("() => window.choose('closest bucket')")
    placed.wait_for_function(
        "() => !window.app.graph.nodes.find(node => node.subgraph).widgets.some(widget => widget.name === 'width')"
    )
    assert inputs("LIVEditorInContextReferences") == {"references.reference_0": [image, 0]}


def test_its_menu_has_the_presets(placed):
    from_menu(placed, HOST, WORDS["LIVEditor"]["Presets of Attach ISA"], WORDS["LIVEditor"]["Fast"])
    values = placed.evaluate(
        """() => {
            const host = window.app.graph.nodes.find(node => node.subgraph);
            const isa = host.subgraph.nodes.find(node => node.type === 'LIVEditorAttachISA');
            const value = (node, name) => node.widgets.find(widget => widget.name === name).value;
            return [value(host, 'exact_ratio'), value(isa, 'context_refresh'), value(isa, 'routing')];
        }"""
    )
    assert values == [0.125, 2, "segment_top_k"]


def test_its_menu_compares(placed):
    from_menu(placed, HOST, WORDS["LIVEditor"]["Compare with the source"])
    placed.get_by_text(WORDS["LIVEditor"]["Run the workflow first: there is no edit to compare yet."]).wait_for()
    assert placed.locator(".p-toast-summary").all_text_contents() == [TITLES["LIVEditorDecodeVideo"]["display_name"]]


def test_its_menu_has_instructions(placed):
    text = "Make the video look like a cartoon"
    from_menu(placed, HOST, WORDS["LIVEditor"]["Examples of instructions"], text)
    values = "() => window.app.graph.nodes.find(node => node.subgraph).widgets.map(widget => widget.value)"
    placed.wait_for_function(f"text => ({values})().includes(text)", arg=text)
