"""The real page in a real Chromium: workflows load, the API form is the page's own, an mp4 restores its graph."""

import base64
import json
import shutil
import time
from contextlib import contextmanager

import pytest
from screenshots import QUIET
from setup import BROWSER
from test_server import EXAMPLES, SMALL, info, video_file  # noqa: F401
from workflow_api import Workflow

pytestmark = pytest.mark.skipif(not shutil.which(BROWSER), reason=f"needs {BROWSER}")


STILL = """addEventListener('DOMContentLoaded', () => {
    const style = document.createElement('style');
    style.textContent = '*, *::before, *::after { animation: none !important; transition: none !important }';
    document.head.append(style);
})"""
"""Drawn without a GPU, what moves while a workflow runs takes most of a core, and nothing of it is tested."""


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which(BROWSER), args=QUIET)
        yield chromium
        chromium.close()


@contextmanager
def opened_page(browser, server, way: str):
    """Any uncaught error fails the test."""
    errors = []
    page = open_page(browser, server, way == "Vue nodes", lambda error: errors.append(str(error)))
    yield page
    page.close()
    assert not errors


WAYS = ["canvas nodes", "Vue nodes"]
"""Of drawing nodes."""


@pytest.fixture(params=WAYS)
def page(browser, server, request):
    with opened_page(browser, server, request.param) as page:
        yield page


@pytest.fixture(params=WAYS, scope="module")
def page_of_many(browser, server, request):
    """One for all workflows that are opened, one after the other, as users do."""
    with opened_page(browser, server, request.param) as page:
        yield page


def open_page(browser, server, vue: bool, on_error=lambda error: None):
    """Without its first-run dialogs."""
    server.post("/settings", {"Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": vue})
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    page.add_init_script(STILL)
    page.on("pageerror", on_error)
    page.goto(server.url)
    page.wait_for_function("window.app?.graph && window.app.extensionManager", timeout=60_000)
    page.wait_for_selector("canvas")
    return page


def drop(page, path, mime: str):
    """Drop a file on the canvas, as from the desktop."""
    content = base64.b64encode(path.read_bytes()).decode()
    page.evaluate(
        """([content, name, type]) => {
            const bytes = Uint8Array.from(atob(content), c => c.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name, { type }));
            const target = document.querySelector('#graph-canvas') ?? document.querySelector('canvas');
            for (const kind of ['dragenter', 'dragover', 'drop'])
                target.dispatchEvent(new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: transfer }));
        }""",
        [content, path.name, mime],
    )


def node_types(page) -> list[str]:
    return sorted(page.evaluate("() => window.app.graph.nodes.map(node => node.type)"))


def wait_for_nodes(page, count: int):
    page.wait_for_function("count => window.app.graph.nodes.length === count", arg=count, timeout=20_000)


def set_widgets(page, changes: dict):
    """changes: {node type: {widget: value}}."""
    page.evaluate(
        """changes => {
            for (const [type, values] of Object.entries(changes)) {
                const node = window.app.graph.nodes.find(node => node.type === type);
                for (const [name, value] of Object.entries(values)) {
                    const widget = node.widgets.find(widget => widget.name === name);
                    widget.value = value;
                    widget.callback?.(value);
                }
            }
        }""",
        changes,
    )


def prompt_of(page) -> dict:
    prompt = page.evaluate("async () => (await window.app.graphToPrompt()).output")
    for node in prompt.values():
        node["inputs"].pop("video-preview", None)  # the page's own, unknown to the server
    return prompt


def fresh() -> dict:
    """The stand-in's changes with a seed that no run before had, so that the server has nothing cached."""
    return {**SMALL, "KSampler": {**SMALL["KSampler"], "seed": time.time_ns() % 2**32}}


NO_NETWORK = ("Failed to load resource", "Content Security Policy", "Fetch API cannot load")
"""The page asks for the sizes of missing models."""
OURS = ("/extensions/liveditor", "/liveditor_isa")
"""Addresses that the server answers without a network."""
CORES_OWN = ("ComfyApp graph accessed before initialization", "Failed to execute 'removeChild' on 'Node'")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.json")), ids=lambda path: path.stem)
def test_example_workflow_loads_and_means_what_the_demo_runs(page_of_many, info, path):  # noqa: F811
    page, errors = page_of_many, []
    page.on("console", lambda message: errors.append(said_of(message)) if message.type == "error" else None)
    saved = json.loads(path.read_text(encoding="utf-8"))
    drop(page, path, "application/json")
    page.wait_for_function("id => window.app.graph.id === id", arg=saved["id"], timeout=20_000)
    wait_for_nodes(page, len(saved["nodes"]))
    assert node_types(page) == sorted(node["type"] for node in saved["nodes"])
    assert not page.evaluate("() => window.app.graph.nodes.some(node => node.has_errors && !node.constructor.nodeData)")
    assert prompt_of(page) == Workflow(saved, info).prompt()
    assert not unexpected(errors)


def said_of(message) -> str:
    return f"{message.text} {message.location.get('url', '')}"


def unexpected(errors: list[str]) -> list[str]:
    """Those that are neither core's own nor for want of a network: what we serve ourselves needs none."""
    known = [error for error in errors if any(text in error for text in NO_NETWORK + CORES_OWN)]
    return [error for error in errors if error not in known or any(ours in error for ours in OURS)]


@pytest.mark.parametrize("page", ["canvas nodes"], indirect=True)
def test_a_file_of_ours_that_is_not_there_is_an_error(page):
    errors = []
    page.on("console", lambda message: errors.append(said_of(message)) if message.type == "error" else None)
    for path in ("extensions/liveditor_isa/none.js", "liveditor_isa/none", "somewhere/none"):
        page.evaluate("path => fetch(path)", path)
    page.wait_for_timeout(300)
    assert len(errors) == 3 and len(unexpected(errors)) == 2


def test_the_blueprint_edits_a_video(page, server):
    [(key, entry)] = [each for each in server.get("/global_subgraphs").items() if "LIVEditor" in each[1]["name"]]
    assert entry["name"] == "Edit video (LIVEditor + ISA)"
    blueprint = json.loads(server.get(f"/global_subgraphs/{key}")["data"])
    page.evaluate("blueprint => window.app.loadGraphData(blueprint)", blueprint)
    wait_for_nodes(page, 1)
    small = {**SMALL["LIVEditorLoad"], "length": 9, "steps": 2, "seed": time.time_ns() % 2**32}
    page.evaluate(
        """async ([file, values]) => {
            const { graph } = window.app, [host] = graph.nodes, video = window.LiteGraph.createNode('LoadVideo');
            graph.add(video);
            video.widgets.find(widget => widget.name === 'file').value = file;
            video.connect(0, host, host.inputs.findIndex(input => input.name === 'video'));
            for (const [name, value] of Object.entries(values)) host.widgets.find(widget => widget.name === name).value = value;
            const references = host.subgraph.nodes.find(node => node.type === 'LIVEditorInContextReferences');
            const set = (name, value) => { const widget = references.widgets.find(each => each.name === name); widget.value = value; widget.callback?.(value) };
            set('size', 'custom');
            await new Promise(made => setTimeout(made, 300));
            set('size.width', 160);
            set('size.height', 96);
            window.done = [];
            window.app.api.addEventListener('executed', e => window.done.push(e.detail));
        }""",
        [SMALL["LoadVideo"]["file"], small],
    )
    page.get_by_test_id("queue-button").dispatch_event("click")
    page.wait_for_function("() => window.done.some(output => output.output?.animated)", timeout=120_000)
    # The source comes into the subgraph from outside.
    page.evaluate(
        """() => {
            const decode = window.app.graph.nodes.find(node => node.subgraph).subgraph.nodes.find(node => node.type === 'LIVEditorDecodeVideo');
            decode.widgets.find(widget => widget.name === 'compare').callback();
        }"""
    )
    page.wait_for_function("() => document.querySelectorAll('.isa-compare video').length === 2", timeout=20_000)
    assert SMALL["LoadVideo"]["file"] in page.evaluate("() => document.querySelector('.isa-before').src")


def test_dropping_the_mp4_restores_the_workflow(page, server, info, tmp_path):  # noqa: F811
    saved = json.loads((EXAMPLES / "liveditor_edit_video.json").read_text(encoding="utf-8"))
    video = tmp_path / "dropped.mp4"
    shutil.copy(video_file(server, server.run(Workflow(saved, info).prompt(fresh()), saved)), video)
    assert len(node_types(page)) != len(saved["nodes"])
    drop(page, video, "video/mp4")
    wait_for_nodes(page, len(saved["nodes"]))
    assert prompt_of(page) == Workflow(saved, info).prompt()


def test_the_whole_job_from_the_page(page, server, info):  # noqa: F811
    """Set the stand-in's values in the widgets, press Run, and see the video on the node."""
    drop(page, EXAMPLES / "liveditor_edit_video.json", "application/json")
    wait_for_nodes(page, 12)
    set_widgets(page, fresh())
    sent = prompt_of(page)
    references = next(node for node in sent.values() if node["class_type"] == "LIVEditorInContextReferences")
    assert references["inputs"]["size.width"] == SMALL["LIVEditorInContextReferences"]["size.width"]
    isa = next(node for node in sent.values() if node["class_type"] == "LIVEditorAttachISA")["inputs"]
    assert (isa["keep_ratio"], isa["routing.dense_query_ratio"], isa["exact_ratio"]) == (0.125, 0.5, 0.0625)

    page.evaluate("() => { window.done = []; window.app.api.addEventListener('executed', e => window.done.push(e.detail)) }")
    # Not a click: the mask of the page's start may still be fading above the button.
    page.get_by_test_id("queue-button").dispatch_event("click")
    page.wait_for_function("() => window.done.some(output => output.output?.animated)", timeout=120_000)
    # The video plays on the node, the line about ISA stands on its own.
    page.wait_for_function("() => [...document.querySelectorAll('video')].some(video => video.src.includes('LIVEditor_'))")
    page.get_by_text("ISA: 8 attention calls").first.wait_for(timeout=10_000)
