"""The real page in a real Chromium: workflows load, the API form is the page's own, an mp4 restores its graph."""

import json
import shutil
import time

import pytest
from browser_page import drop, node_types, prompt_of, set_widgets, wait_for_nodes, wait_until
from examples import EXAMPLES, SMALL, fresh, video_file
from workflow_api import Workflow

NO_NETWORK = ("Failed to load resource", "Content Security Policy", "Fetch API cannot load")
"""The page asks for the sizes of missing models."""
OURS = ("/extensions/liveditor", "/liveditor_isa")
"""Addresses that the server answers without a network."""
CORES_OWN = ("ComfyApp graph accessed before initialization", "Failed to execute 'removeChild' on 'Node'")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.json")), ids=lambda path: path.stem)
def test_example_workflow_loads_and_means_what_the_demo_runs(page_of_many, info, path):
    page, errors = page_of_many, []
    page.on("console", lambda message: errors.append(said_of(message)) if message.type == "error" else None)
    saved = json.loads(path.read_text(encoding="utf-8"))
    drop(page, path, "application/json")
    assert page.evaluate("() => window.app.graph.id") == saved["id"]
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
    wait_until(page, lambda: len(errors) >= 3)
    assert len(errors) == 3 and len(unexpected(errors)) == 2


FOUND = """async word => {
    const stores = document.querySelector('#vue-app').__vue_app__.config.globalProperties.$pinia._s;
    const { nodeSearchService } = stores.get('nodeDef');
    nodeSearchService.searchNode(word);
    await stores.get('nodeFrequency').loadNodeFrequencies(); // by which the page orders, once its search was opened
    return nodeSearchService.searchNode(word).map(node => node.name);
}"""
"""The nodes that the page's own search offers, the first first."""


@pytest.mark.parametrize("page", ["canvas nodes"], indirect=True)
def test_words_by_which_people_look_for_the_nodes(page):
    for word, node, most in (
        ("sparse", "LIVEditorAttachISA", 2),  # a newer core's Model Sparse Attention may come before
        ("edit video", "LIVEditorDecodeVideo", 4),
        ("masked edit", "LIVEditorDecodeVideo", 2),
        ("mask", "LIVEditorDecodeVideo", 30),  # of 33; most of the others have it in their names
    ):
        found = page.evaluate(FOUND, word)
        assert node in found[:most], word
    ours = {"LIVEditorAttachISA", "LIVEditorDecodeVideo", "LIVEditorInContextReferences", "LIVEditorLoad"}
    assert ours == {*page.evaluate(FOUND, "LIVEditor")[:4]}


def test_the_blueprint_tells_what_it_is_where_it_is_found(page):
    told = FOUND.replace("map(node => node.name)", "filter(node => node.python_module === 'blueprint')")
    for word in ("edit", "LIVEditor"):
        ours = [node for node in page.evaluate(told, word) if "LIVEditor" in node["display_name"]]
        assert ours and "A mask and a reference image may be connected" in ours[0]["description"], word


def test_the_blueprint_edits_a_video(page, server):
    [(key, entry)] = [each for each in server.get("/global_subgraphs").items() if "LIVEditor" in each[1]["name"]]
    assert entry["name"] == "Edit video (LIVEditor + ISA)"
    blueprint = json.loads(server.get(f"/global_subgraphs/{key}")["data"])
    page.evaluate("blueprint => window.app.loadGraphData(blueprint)", blueprint)
    wait_for_nodes(page, 1)
    small = {**SMALL["LIVEditorLoad"], "width": 160, "height": 96, "length": 9, "steps": 2, "seed": time.time_ns() % 2**32}
    page.evaluate(
        """([file, values]) => {
            const { graph } = window.app, [host] = graph.nodes, video = window.LiteGraph.createNode('LoadVideo');
            graph.add(video);
            video.widgets.find(widget => widget.name === 'file').value = file;
            video.connect(0, host, host.inputs.findIndex(input => input.name === 'video'));
            for (const [name, value] of Object.entries(values)) host.widgets.find(widget => widget.name === name).value = value;
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
    page.wait_for_function("() => document.querySelectorAll('.isa-compare video').length === 2", timeout=60_000)
    assert SMALL["LoadVideo"]["file"] in page.evaluate("() => document.querySelector('.isa-before').src")


def test_dropping_the_mp4_restores_the_workflow(page, server, info, tmp_path):
    saved = json.loads((EXAMPLES / "2 LIVEditor-14B.json").read_text(encoding="utf-8"))
    video = tmp_path / "dropped.mp4"
    shutil.copy(video_file(server, server.run(Workflow(saved, info).prompt(fresh()), saved)), video)
    assert len(node_types(page)) != len(saved["nodes"])
    drop(page, video, "video/mp4")
    assert prompt_of(page) == Workflow(saved, info).prompt()


def test_the_whole_job_from_the_page(page, server, info):
    """Set the stand-in's values in the widgets, press Run, and see the video on the node."""
    drop(page, EXAMPLES / "2 LIVEditor-14B.json", "application/json")
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
    line = page.get_by_text("ISA: 8 attention calls").filter(visible=True)
    line.first.wait_for(timeout=10_000)
    assert line.count() == 1, "the panel shows it in place of core's own widget for a node's text"
