"""The templates on a fresh install: the page brings the clip that they edit, nothing is red, everything can be read, and nothing lies over another."""

import json
from itertools import combinations

import pytest
from browser_page import WAYS, after_frames, opened_page
from comfy_headless import CLIP, ROOT, ComfyServer
from examples import EXAMPLES

TINY = sorted(path.stem for path in EXAMPLES.glob("*.json") if "LIVEditor-tiny (included)" in path.read_text(encoding="utf-8"))
LARGE = sorted({path.stem for path in EXAMPLES.glob("*.json")} - {*TINY})
FOLDER = "10 A folder of clips"
CLIPS = "liveditor_clips"
"""The folder that it edits."""


@pytest.fixture(scope="module")
def fresh_install(tmp_path_factory):
    """No models and no input but what the pack brings."""
    with ComfyServer(tmp_path_factory.mktemp("fresh"), None) as server:
        yield server


@pytest.fixture(scope="module", params=WAYS)
def fresh_page(browser, fresh_install, request):
    clip_in(fresh_install).unlink(missing_ok=True)
    with opened_page(browser, fresh_install, request.param) as page:
        yield page


def clip_in(server):
    return server.base / "input" / CLIP.name


def inputs(server) -> list[str]:
    folder = server.base / "input"
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def opened(page, saved: dict) -> list[str]:
    """Types of the nodes that are red once the page has opened a template, as its browser of templates does."""
    page.evaluate("saved => window.app.loadGraphData(saved, true, true, 'a template', { openSource: 'template' })", saved)
    after_frames(page, 3)
    return page.evaluate("() => window.app.graph.nodes.filter(node => node.has_errors).map(node => node.type)")


def template(name: str) -> dict:
    return json.loads((EXAMPLES / f"{name}.json").read_text(encoding="utf-8"))


REPORT = "\n".join(
    [
        "ISA: 960 attention calls at 26.0% density, 26.9% of full attention's arithmetic, on torch (Triton needs a GPU, not 'cpu')"
    ]
    + ["The context was computed in 6 of 12 model calls, and reused in the others; kept: 0.0451 GB in main memory"]
)
RESULTS = """([report, clip]) => {
    for (const node of app.graph.nodes) {
        const id = String(node.id);
        if (node.type === 'LIVEditorAttachISA') app.api.dispatchCustomEvent('progress_text', { nodeId: id, text: report });
        if (node.type !== 'LIVEditorDecodeVideo') continue;
        const output = { images: [{ filename: clip, subfolder: '', type: 'input' }], animated: [true] };
        app.api.dispatchCustomEvent('executed', { node: id, display_node: id, output, prompt_id: 'none' });
    }
}"""
"""What the server sends at the end of a run."""
SHOWN = "count => [...document.querySelectorAll('video')].filter(video => video.videoWidth).length >= count"
BOXES = """() => app.graph.nodes.map(node => {
    const element = document.querySelector(`[data-node-id="${node.id}"]`), { scale } = app.canvas.ds;
    if (!element) {
        node.updateArea(app.canvas.ctx);
        return { name: node.title, box: [...node.boundingRect] };
    }
    const { x, y, width, height } = element.getBoundingClientRect();
    return { name: node.title, box: [x / scale, y / scale, width / scale, height / scale] };
})"""
"""In the graph's own units: the title and all that a node shows."""


def overlapping(page) -> list[tuple[str, str]]:
    def overlap(one: dict, other: dict) -> bool:
        return all(
            one["box"][axis] + one["box"][axis + 2] > other["box"][axis] + 1
            and other["box"][axis] + other["box"][axis + 2] > one["box"][axis] + 1
            for axis in (0, 1)
        )

    pairs = combinations(page.evaluate(BOXES), 2)
    return [(one["name"], other["name"]) for one, other in pairs if overlap(one, other)]


def looks_well(page, edits: int, sources: int = 1):
    """Text is drawn at the zoom at which the template opens, and nothing lies over another, also with a run's results."""
    assert not page.evaluate("() => app.canvas.low_quality"), "no text is drawn at this zoom"
    assert overlapping(page) == []
    page.evaluate(RESULTS, [REPORT, CLIP.name])
    page.wait_for_function(SHOWN, arg=sources + edits, timeout=60_000)
    after_frames(page, 3)
    assert overlapping(page) == []


def edits_in(saved: dict) -> int:
    return sum(node["type"] == "LIVEditorDecodeVideo" for node in saved["nodes"])


def test_nothing_is_brought_before_a_workflow_asks_for_it(fresh_page, fresh_install):
    assert inputs(fresh_install) == []


@pytest.mark.parametrize("name", sorted({*TINY} - {FOLDER}))
def test_a_template_of_the_included_model_opens_with_nothing_missing(fresh_page, fresh_install, name):
    clip_in(fresh_install).unlink(missing_ok=True)
    assert opened(fresh_page, template(name)) == []
    assert inputs(fresh_install) == [CLIP.name] and clip_in(fresh_install).read_bytes() == CLIP.read_bytes()
    fresh_page.wait_for_function(
        "name => [...document.querySelectorAll('video')].some(video => video.src.includes(name) && video.videoWidth)",
        arg=CLIP.name,
    )
    looks_well(fresh_page, edits_in(template(name)))


@pytest.mark.parametrize("language", ["fr", "es"])
def test_notes_in_longer_languages_lie_over_nothing(browser, fresh_install, language):
    """As Vue nodes, which grow with their text."""
    fresh_install.post("/settings", {"Comfy.Locale": language})
    try:
        with opened_page(browser, fresh_install, "Vue nodes") as page:
            for name in TINY:
                opened(page, template(name))
                assert page.evaluate("() => app.graph.nodes.some(node => /sabe|sait/.test(node.title))")
                assert overlapping(page) == [], name
    finally:
        fresh_install.post("/settings", {"Comfy.Locale": "en"})


def test_a_template_that_edits_a_folder_opens_with_a_clip_in_it(fresh_page, fresh_install):
    folder = fresh_install.base / "input" / CLIPS
    clip_in(fresh_install).unlink(missing_ok=True)
    assert opened(fresh_page, template(FOLDER)) == []
    assert inputs(fresh_install) == [f"{CLIPS}/{CLIP.name}"] and (folder / CLIP.name).read_bytes() == CLIP.read_bytes()
    assert fresh_page.evaluate(
        """() => {
            const [widget] = app.graph.nodes.find(node => node.type === 'LoadVideoDataSetFromFolder').widgets;
            return [widget.value, widget.options.values.includes(widget.value)];
        }"""
    ) == [CLIPS, True]
    # A user's folder of that name stays as it is.
    (folder / CLIP.name).rename(folder / "mine.mp4")
    assert opened(fresh_page, template(FOLDER)) == [] and inputs(fresh_install) == [f"{CLIPS}/mine.mp4"]
    (folder / "mine.mp4").rename(clip_in(fresh_install))  # for what it is to look like after a run
    folder.rmdir()
    looks_well(fresh_page, edits_in(template(FOLDER)), sources=0)


@pytest.mark.parametrize("name", LARGE)
def test_a_template_of_another_model_lacks_nothing_but_its_files(fresh_page, fresh_install, name):
    clip_in(fresh_install).unlink(missing_ok=True)
    red = opened(fresh_page, template(name))
    assert red and not {*red} & {"LoadVideo", "LIVEditorAttachISA"}
    assert clip_in(fresh_install).exists()
    looks_well(fresh_page, edits_in(template(name)))


def test_the_blueprint_opens_with_nothing_missing(fresh_page):
    [path] = (ROOT / "subgraphs").glob("*.json")
    assert opened(fresh_page, json.loads(path.read_text(encoding="utf-8"))) == []


def test_another_file_that_is_missing_is_still_red(fresh_page, fresh_install):
    clip_in(fresh_install).unlink(missing_ok=True)
    saved = template(TINY[0])
    video = next(node for node in saved["nodes"] if node["type"] == "LoadVideo")
    video["widgets_values"][0] = "of_somebody.mp4"
    assert opened(fresh_page, saved) == ["LoadVideo"]
    assert inputs(fresh_install) == []


def test_a_file_of_that_name_stays(fresh_page, fresh_install):
    clip_in(fresh_install).write_bytes(b"somebody's own")
    opened(fresh_page, template(TINY[0]))
    assert inputs(fresh_install) == [CLIP.name] and clip_in(fresh_install).read_bytes() == b"somebody's own"
    clip_in(fresh_install).unlink()


def test_a_template_runs_as_it_is(fresh_page, fresh_install):
    """Smaller and in one step, in the way that users begin: open it and press Run."""
    clip_in(fresh_install).unlink(missing_ok=True)
    saved = template("1 First edit, without a GPU")
    nodes = {node["type"]: node for node in saved["nodes"]}
    nodes["LIVEditorInContextReferences"]["widgets_values"][1:4] = [160, 96, 5]
    nodes["KSampler"]["widgets_values"][2] = 1
    opened(fresh_page, saved)
    fresh_page.evaluate(
        "() => { window.done = []; window.app.api.addEventListener('executed', event => window.done.push(event.detail)) }"
    )
    fresh_page.get_by_test_id("queue-button").dispatch_event("click")
    fresh_page.wait_for_function("() => window.done.some(each => each.output?.animated)", timeout=120_000)
    assert list((fresh_install.base / "output/video").glob("*.mp4"))
