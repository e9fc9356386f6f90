"""Choices of the nodes' widgets and the server's sentences in the page's language: on the real page, in both ways of drawing nodes;
workflows keep the values."""

import json

import pytest
from browser_page import WAYS, after_frames, click_until, drop, opened_page, prompt_of, set_widgets
from comfy_headless import ROOT
from examples import EXAMPLES, fresh

LABELS = json.loads((ROOT / "locales/fr/main.json").read_text(encoding="utf-8"))["LIVEditorOptions"]
TEMPLATE = EXAMPLES / "2 LIVEditor-14B.json"


@pytest.fixture(params=WAYS)
def french(browser, server, request):
    server.post("/settings", {"Comfy.Locale": "fr"})
    try:
        with opened_page(browser, server, request.param) as page:
            yield page, request.param
    finally:
        server.post("/settings", {"Comfy.Locale": "en"})


def focus(page, type: str) -> int:
    """Show one node, all its widgets too, so that it can be clicked; its number."""
    node = page.evaluate(
        """type => {
            const node = window.app.graph.nodes.find(node => node.type === type);
            node.showAdvanced = true;
            node.expandToFitContent?.();
            window.app.canvas.ds.scale = 1;
            window.app.canvas.ds.offset = [400 - node.pos[0], 120 - node.pos[1]];
            window.app.canvas.setDirty(true, true);
            return node.id;
        }""",
        type,
    )
    after_frames(page)
    return node


def value(page, node: int, widget: str):
    return page.evaluate(
        "([id, name]) => window.app.graph.getNodeById(id).widgets.find(each => each.name === name).value", [node, widget]
    )


def choose(page, way: str, node: int, widget: str, label: str):
    """By the hands of a user: open the list, see the labels, take one."""
    if way == "Vue nodes":
        page.locator(f"[data-node-id='{node}']").get_by_role("combobox", name=widget).click()
        page.get_by_role("option", name=label, exact=True).click()
        return
    place = page.evaluate(
        """([id, name]) => {
            const { canvas, ds } = window.app.canvas;
            const node = window.app.graph.getNodeById(id), widget = node.widgets.find(each => each.name === name);
            const [x, y] = [node.pos[0] + node.size[0] / 2, node.pos[1] + widget.y + 10];
            const box = canvas.getBoundingClientRect();
            return [box.left + (x + ds.offset[0]) * ds.scale, box.top + (y + ds.offset[1]) * ds.scale];
        }""",
        [node, widget],
    )
    entry = page.locator(".litemenu-entry").filter(has_text=label)
    click_until(lambda: page.mouse.click(*place), lambda ms: entry.wait_for(timeout=ms))
    entry.click()


def shown(page, way: str, node: int, widget: str) -> str:
    if way == "Vue nodes":
        return page.locator(f"[data-node-id='{node}']").get_by_role("combobox", name=widget).inner_text()
    return page.evaluate(
        "([id, name]) => window.app.graph.getNodeById(id).widgets.find(each => each.name === name)._displayValue",
        [node, widget],
    )


@pytest.mark.parametrize(
    ("type", "widget", "before", "after"),
    [
        ("LIVEditorInContextReferences", "size", "closest bucket", "custom"),
        ("LIVEditorAttachISA", "routing", "ratio", "segment_top_k"),
        ("LIVEditorDecodeVideo", "sound", "source", "off"),
    ],
)
def test_a_choice_is_labelled_and_stored_as_it_was(french, type, widget, before, after):
    page, way = french
    drop(page, TEMPLATE, "application/json")
    node = focus(page, type)
    assert value(page, node, widget) == before and shown(page, way, node, widget) == LABELS[widget][before]
    choose(page, way, node, widget, LABELS[widget][after])
    page.wait_for_function(
        "([id, name, value]) => window.app.graph.getNodeById(id).widgets.find(each => each.name === name).value === value",
        arg=[node, widget, after],
    )
    assert shown(page, way, node, widget) == LABELS[widget][after]
    sent = next(each["inputs"] for each in prompt_of(page).values() if each["class_type"] == type)
    assert sent[widget] == after
    saved = page.evaluate("() => JSON.stringify(window.app.graph.serialize())")
    assert after in saved and LABELS[widget][after] not in saved


def test_a_switch_is_labelled(french):
    page, way = french
    drop(page, TEMPLATE, "application/json")
    node = focus(page, "LIVEditorAttachISA")
    if way == "Vue nodes":
        page.locator(f"[data-node-id='{node}']").get_by_text(LABELS["enabled"]["on"], exact=True).wait_for()
    else:
        options = "id => window.app.graph.getNodeById(id).widgets.find(widget => widget.name === 'enabled').options"
        assert page.evaluate(f"id => ({{ ...({options})(id) }})", node).items() >= LABELS["enabled"].items()


def test_a_change_of_the_language_takes_the_words_along_and_asks_for_them_once(browser, server):
    asked = []
    try:
        with opened_page(browser, server, WAYS[0]) as page:
            drop(page, TEMPLATE, "application/json")
            page.on("request", lambda request: asked.append(request.url) if request.url.endswith("/i18n") else None)
            page.evaluate("() => window.app.extensionManager.setting.set('Comfy.Locale', 'fr')")
            page.wait_for_function(  # The page opens its workflow anew.
                """label => window.app.graph.nodes.find(node => node.type === 'LIVEditorInContextReferences')
                    ?.widgets.find(widget => widget.name === 'size')._displayValue === label""",
                arg=LABELS["size"]["closest bucket"],
            )
            page.get_by_role("button", name="Équilibré").wait_for(state="attached")
            drop(page, EXAMPLES / "1 First edit, without a GPU.json", "application/json")
            assert len(asked) == 1
    finally:
        server.post("/settings", {"Comfy.Locale": "en"})


def run(page):
    page.get_by_test_id("queue-button").dispatch_event("click")


def test_errors_are_told_in_french(french):
    page, _ = french
    drop(page, TEMPLATE, "application/json")  # whose files are missing here
    page.evaluate(
        "() => window.app.api.addEventListener('execution_error', event => (window.fault = event.detail.exception_message))"
    )
    set_widgets(page, {"LoadVideo": fresh()["LoadVideo"]})
    run(page)
    page.wait_for_function("() => window.fault", timeout=60_000)
    assert "Mettez-y le checkpoint de LIVEditor, appuyez sur R" in page.evaluate("() => window.fault")
    told = page.get_by_role("alert").filter(has_text="Mettez-y le checkpoint de LIVEditor")
    told.get_by_text("n'est pas dans models/diffusion_models").wait_for()
    set_widgets(page, {"LIVEditorDecodeVideo": {"filename_prefix": "../outside"}})
    run(page)
    page.get_by_role("alert").get_by_text("mène hors du dossier de sortie").wait_for()
    assert page.get_by_role("alert").filter(has_text="mène hors").count() == 1


def test_a_node_speaks_french(french):
    page, _ = french
    drop(page, TEMPLATE, "application/json")
    set_widgets(page, fresh())
    set_widgets(page, {"LIVEditorDecodeVideo": {"format": "gif"}})
    run(page)
    page.get_by_text("dans le dossier output").filter(visible=True).first.wait_for(timeout=120_000)
