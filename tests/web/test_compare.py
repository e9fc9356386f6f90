"""Decode Video's comparison on the real page: source and edit over each other, in step."""

import io
import re

import numpy as np
import pytest
from browser_page import after_frames, drop, prompt_of, set_widgets, wait_until
from examples import EXAMPLES, fresh
from PIL import Image

one_way = pytest.mark.parametrize("page", ["canvas nodes"], indirect=True)
VIDEOS = "[...document.querySelectorAll('.isa-compare video')]"
PRESS = "window.app.graph.nodes.find(node => node.type === 'LIVEditorDecodeVideo').widgets.find(w => w.name === 'compare').callback()"
FRAME = 1 / 25
"""Seconds; the sample video's."""


@pytest.fixture(scope="module")
def edited(page_of_many):
    """A page after a run of the stand-in, whose edit is noise, so that it differs from its source everywhere."""
    page = page_of_many
    drop(page, EXAMPLES / "2 LIVEditor-14B.json", "application/json")
    set_widgets(page, fresh())
    page.evaluate(PRESS)
    page.get_by_text("there is no edit to compare yet").first.wait_for(timeout=10_000)
    page.evaluate("() => { window.done = []; window.app.api.addEventListener('executed', e => window.done.push(e.detail)) }")
    page.get_by_test_id("queue-button").dispatch_event("click")
    page.wait_for_function("() => window.done.some(output => output.output?.animated)", timeout=120_000)
    return page


@pytest.fixture
def compared(edited):
    """The comparison of its edit, at the beginning."""
    page = edited
    page.evaluate(PRESS)
    page.wait_for_function(f"() => {VIDEOS}.length === 2 && {VIDEOS}.every(video => video.readyState >= 2)", timeout=30_000)
    page.wait_for_function(f"() => {VIDEOS}.every(video => !video.paused)", timeout=30_000)  # at once, without a click
    page.evaluate(f"() => {VIDEOS}.forEach(video => {{ video.pause(); video.currentTime = 0 }})")
    yield page
    page.keyboard.press("Escape")
    page.wait_for_function("() => !document.querySelector('.isa-compare')")


def picture(page) -> np.ndarray:
    """The stage, once two pictures of it are the same: a video's frame is on the screen some time after it was decoded."""
    page.wait_for_function(f"() => {VIDEOS}.every(video => !video.seeking && video.readyState >= 2)")
    taken = [b""]

    def same() -> bool:
        after_frames(page)
        taken.append(page.locator(".isa-stage").screenshot())
        return taken[-1] == taken[-2]

    wait_until(page, same)
    return np.asarray(Image.open(io.BytesIO(taken[-1])).convert("RGB")).astype(float)


def at(page, share: float) -> np.ndarray:
    """The stage with the line at a share of its width."""
    box = page.locator(".isa-stage").bounding_box()
    page.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
    return picture(page)


def test_the_wipe_shows_the_source_on_its_left_and_the_edit_on_its_right(compared):
    edit, source, both = at(compared, 0.001), at(compared, 0.999), at(compared, 0.5)
    width = edit.shape[1]
    left, right = np.s_[:, 10 : width // 2 - 10], np.s_[:, width // 2 + 10 : -10]
    assert abs(edit - source)[left].mean() > 15 and abs(edit - source)[right].mean() > 15
    assert abs(both - source)[left].mean() < 3 and abs(both - edit)[right].mean() < 3

    # Cut as the model saw it: 160×96 out of 1280×720.
    shapes = compared.evaluate(f"() => {VIDEOS}.map(video => [video.videoWidth, video.videoHeight])")
    assert shapes == [[160, 96], [1280, 720]] and width / edit.shape[0] == pytest.approx(160 / 96, rel=0.02)


def test_both_step_and_seek_together(compared):
    def times():
        compared.wait_for_function(f"() => {VIDEOS}.every(video => !video.seeking)")
        return compared.evaluate(f"() => {VIDEOS}.map(video => video.currentTime)")

    for frame in (1, 2, 3):
        compared.locator(".isa-compare [data-do=on]").click()
        assert times() == pytest.approx([(frame + 0.5) * FRAME] * 2, abs=0.002)
        assert compared.locator(".isa-compare output").text_content() == f"frame {frame + 1} of 9"
    compared.keyboard.press("ArrowLeft")
    assert times() == pytest.approx([2.5 * FRAME] * 2, abs=0.002)
    for _ in range(20):
        compared.keyboard.press("ArrowRight")
    assert times() == pytest.approx([8.5 * FRAME] * 2, abs=0.002), "no further than the last frame"

    compared.locator(".isa-compare [data-do=near]").click()
    assert "scale(2)" in compared.evaluate(f"() => {VIDEOS}[0].style.transform")

    # What the browser cannot play is said, and stays.
    compared.evaluate(f"() => {{ {VIDEOS}[1].src = 'data:video/mp4;base64,AAAA' }}")
    compared.wait_for_function(f"() => {VIDEOS}[1].error")
    after_frames(compared)
    assert "or the browser cannot play its format" in compared.locator(".isa-compare output").text_content()
    compared.keyboard.press("Escape")
    compared.wait_for_function("() => !document.querySelector('.isa-compare')")


def open_again(page, path: str):
    page.evaluate(
        """async path => {
            const { workflow } = window.app.extensionManager, found = workflow.getWorkflowByPath(path);
            await window.app.loadGraphData(JSON.parse(JSON.stringify(found.activeState)), true, true, found);
        }""",
        path,
    )
    page.wait_for_function("path => window.app.extensionManager.workflow.activeWorkflow.path === path", arg=path)


@pytest.mark.parametrize("page_of_many", ["canvas nodes"], indirect=True, scope="module")
def test_the_result_is_there_after_the_workflow_was_left_and_opened_again(compared):
    compared.keyboard.press("Escape")
    mine = compared.evaluate("() => window.app.extensionManager.workflow.activeWorkflow.path")
    drop(compared, EXAMPLES / "1 First edit, without a GPU.json", "application/json")
    open_again(compared, mine)
    compared.evaluate(PRESS)
    compared.wait_for_function(f"() => {VIDEOS}.length === 2 && {VIDEOS}.every(video => video.readyState >= 2)", timeout=30_000)
    # It plays at once.
    assert re.fullmatch(r"frame \d of 9", compared.locator(".isa-compare output").text_content())


@one_way
def test_what_browsers_do_not_play_is_shown_but_not_compared(page):
    """In a workflow that was saved before there were formats."""
    drop(page, EXAMPLES / "2 LIVEditor-14B.json", "application/json")
    (decode,) = (node for node in prompt_of(page).values() if node["class_type"] == "LIVEditorDecodeVideo")
    since = {"format": "mp4 (H.264)", "sound": "source", "beside_source": False, "draft": False}
    assert {name: decode["inputs"].get(name) for name in since} == since
    node = "window.app.graph.nodes.find(node => node.type === 'LIVEditorDecodeVideo')"
    assert page.evaluate(f"() => {node}.outputs.map(output => output.type)") == ["VIDEO", "IMAGE", "AUDIO"]
    set_widgets(page, fresh() | {"LIVEditorDecodeVideo": {"format": "png sequence"}})
    page.evaluate("() => { window.done = []; window.app.api.addEventListener('executed', e => window.done.push(e.detail)) }")
    page.get_by_test_id("queue-button").dispatch_event("click")
    page.wait_for_function("() => window.done.some(output => output.output?.liveditor_video)", timeout=120_000)
    page.wait_for_function(f"() => {node}.imgs?.length === 1 && {node}.imgs[0].naturalWidth === 160", timeout=60_000)
    page.evaluate(PRESS)
    page.get_by_text("This video cannot be compared").first.wait_for(timeout=10_000)


@one_way
def test_a_part_of_a_trimmed_source_is_compared_in_step(page):
    """Core's Trim Video between, and frames skipped after it."""
    drop(page, EXAMPLES / "2 LIVEditor-14B.json", "application/json")
    set_widgets(
        page, fresh() | {"LIVEditorInContextReferences": {**fresh()["LIVEditorInContextReferences"], "start_frame": 10}}
    )
    page.evaluate(
        """() => {
            const { graph } = window.app, trim = window.LiteGraph.createNode('Video Slice'), of = type => graph.nodes.find(node => node.type === type);
            graph.add(trim);
            const to = of('LIVEditorInContextReferences');
            of('LoadVideo').connect(0, trim, 0);
            trim.connect(0, to, to.inputs.findIndex(input => input.name === 'video'));
            for (const [name, value] of [['start_time', 1.2], ['duration', 2]]) trim.widgets.find(widget => widget.name === name).value = value;
            window.done = [];
            window.app.api.addEventListener('executed', e => window.done.push(e.detail));
        }"""
    )
    page.get_by_test_id("queue-button").dispatch_event("click")
    page.wait_for_function("() => window.done.some(output => output.output?.animated)", timeout=120_000)
    page.evaluate(PRESS)
    page.wait_for_function(f"() => {VIDEOS}.length === 2 && {VIDEOS}.every(video => !video.paused)", timeout=30_000)
    page.locator(".isa-compare [data-do=back]").click()
    page.wait_for_function(f"() => {VIDEOS}.every(video => !video.seeking)")
    edit, source = page.evaluate(f"() => {VIDEOS}.map(video => video.currentTime)")
    assert source - edit == pytest.approx(1.2 + 10 * FRAME, abs=0.002)
    assert page.locator(".isa-side").all_text_contents() == ["Source", "Edit"]
