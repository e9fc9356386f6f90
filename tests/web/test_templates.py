"""The templates on a fresh install: the page brings the clip that they edit, nothing is red, everything can be read, and nothing lies over another."""

import json
import shutil
from itertools import combinations

import pytest
from browser_page import OPENED, WAYS, after_frames, click_until, opened_page
from comfy_headless import CLIP, ROOT, ComfyServer
from examples import EXAMPLES
from liveditor_isa.checkpoint import included
from PIL import Image

TINY = sorted(path.stem for path in EXAMPLES.glob("*.json") if "LIVEditor-tiny (included)" in path.read_text(encoding="utf-8"))
LARGE = sorted({path.stem for path in EXAMPLES.glob("*.json")} - {*TINY})
FOLDER = "10 A folder of clips"
WITH_REFERENCE = "6 With a reference image"
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


RED = "() => window.app.graph.nodes.filter(node => node.has_errors).map(node => node.type)"


def opened(page, saved: dict) -> list[str]:
    """Types of the nodes that are red once the page has opened a template, as its browser of templates does."""
    page.evaluate("saved => window.app.loadGraphData(saved, true, true, 'a template', { openSource: 'template' })", saved)
    after_frames(page, 3)
    return page.evaluate(RED)


def chosen(page, name: str) -> list[str]:
    """The same of a template that was chosen in the page's browser of templates."""
    page.evaluate("() => { app.graph.clear(); app.extensionManager.command.execute('Comfy.BrowseTemplates') }")
    page.get_by_role("dialog").get_by_text("liveditor_isa", exact=True).click(timeout=60_000)
    card = page.get_by_test_id(f"template-workflow-{name}")
    card.wait_for(timeout=60_000)
    # On a slow machine a click on a card may open nothing. The wait is long, because a second click would open a second workflow.
    click = lambda: card.is_visible() and card.click(timeout=60_000)  # noqa: E731
    click_until(click, lambda ms: page.wait_for_function("() => app.graph.nodes.length", timeout=ms), wait=15_000)
    page.wait_for_function(OPENED, timeout=60_000)
    after_frames(page, 3)
    return page.evaluate(RED)


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
        const run = { execution: 'none', workflow: app.rootGraph.id, node: id };
        if (node.type === 'LIVEditorAttachISA') app.api.dispatchCustomEvent('liveditor_isa.run', { type: 'report', sentences: report, ...run });
        if (node.type !== 'LIVEditorDecodeVideo') continue;
        const output = { images: [{ filename: clip, subfolder: '', type: 'input' }], animated: [true] };
        app.api.dispatchCustomEvent('executed', { node: id, display_node: id, output, prompt_id: 'none' });
    }
    app.canvas.setDirty(true, true); // as the server's progress does
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


DRAWN = "() => [...document.querySelectorAll('.isa-presets > *')].every(each => each.offsetHeight)"
ROWS = "() => [...document.querySelectorAll('.isa-presets')].map(presets => new Set([...presets.children].map(each => each.offsetTop)).size)"
"""Of buttons, in each panel, once they are drawn."""

NAMED_IS_CHOSEN = """() => {
    const notes = app.graph.nodes.filter(node => node.type === 'MarkdownNote').map(note => note.widgets[0].value);
    const named = notes.flatMap(note => [...note.matchAll(/preset \\*(\\w+)\\*/g)].map(found => found[1]));
    const chosen = [...document.querySelectorAll('.isa-chosen')].map(button => button.textContent);
    return named.every(name => chosen.includes(name));
}"""
"""Whether Attach ISA is set to the preset that the notes name."""
SHOW_ADVANCED = """() => app.graph.nodes.filter(node => node.type === 'LIVEditorAttachISA').forEach(node => {
    const element = document.querySelector(`[data-node-id="${node.id}"]`);
    if (!element) return node.toggleAdvanced(); // in a ComfyUI that folds them there too
    [...element.querySelectorAll('button')].find(button => button.textContent.includes('Show advanced inputs')).click();
})"""
SEEN = """name => app.graph.nodes.filter(node => node.type === 'LIVEditorAttachISA').map(node => {
    const element = document.querySelector(`[data-node-id="${node.id}"]`), widget = node.widgets.find(widget => widget.name === name);
    return element ? element.innerText.split('\\n').includes(name) : node.isWidgetVisible(widget);
})"""
"""Of each Attach ISA: whether it shows a widget."""


def looks_well(page, edits: int, sources: int = 1):
    """Text is drawn at the zoom at which the template opens, no button is pushed into a row of its own, notes name the preset that is chosen,
    and nothing lies over another, also with a run's results and with Attach ISA's advanced inputs."""
    assert not page.evaluate("() => app.canvas.low_quality"), "no text is drawn at this zoom"
    page.wait_for_function(DRAWN, timeout=60_000)
    assert {*page.evaluate(ROWS)} == {1}
    page.wait_for_function(NAMED_IS_CHOSEN, timeout=60_000)
    assert overlapping(page) == []
    page.evaluate(RESULTS, [REPORT, CLIP.name])
    page.wait_for_function(SHOWN, arg=sources + edits, timeout=60_000)
    after_frames(page, 3)
    assert overlapping(page) == []
    page.evaluate(SHOW_ADVANCED)
    page.wait_for_function(f"() => ({SEEN})('min_tokens').every(Boolean)", timeout=60_000)
    after_frames(page, 3)
    assert {*page.evaluate(SEEN, "live_changes")} == {False}
    assert overlapping(page) == []


def edits_in(saved: dict) -> int:
    return sum(node["type"] == "LIVEditorDecodeVideo" for node in saved["nodes"])


def test_nothing_is_brought_before_a_workflow_asks_for_it(fresh_page, fresh_install):
    assert inputs(fresh_install) == []


@pytest.mark.parametrize("name", sorted({*TINY} - {FOLDER}))
def test_a_template_of_the_included_model_opens_with_nothing_missing(fresh_page, fresh_install, name):
    clip_in(fresh_install).unlink(missing_ok=True)
    assert chosen(fresh_page, name) == []
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
    assert chosen(fresh_page, FOLDER) == []
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
    red = chosen(fresh_page, name)
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


SIZE = {"size": "custom", "size.width": 160, "size.height": 96, "length": 5}
SMALLER = {"LIVEditorInContextReferences": SIZE, "KSampler": {"steps": 1}}
"""So that a run takes seconds."""
PICTURE = "mine.png"
OWN = {
    "7 A long video": {
        "LIVEditorInContextReferences": SIZE | {"length": 9},
        "WanContextWindowsManual": {"context_length": 5, "context_overlap": 1},
    },
    # For LIVEditor-14B; here with the included model, which needs no files, and ISA on so short a clip.
    WITH_REFERENCE: {
        "LIVEditorLoad": dict.fromkeys(("diffusion_model", "text_encoder", "vae"), included.NAME),
        "LIVEditorAttachISA": {"min_tokens": 0},
        "LoadImage": {"image": PICTURE},
    },
}
SET = """changes => {
    for (const node of app.graph.nodes)
        for (const [name, value] of Object.entries(changes[node.type] ?? {})) {
            const widget = node.widgets.find(widget => widget.name === name), before = widget.value;
            widget.value = value;
            widget.callback?.(value);
            node.onWidgetChanged?.(name, value, before, widget);
        }
}"""
"""As the page does when a widget is moved: on all nodes of a type."""
FOLLOW = """() => {
    window.done = {};
    window.failed = [];
    app.api.addEventListener('executed', ({ detail }) => detail.output?.animated && (done[detail.node] = detail.output.images.map(image => image.filename)));
    app.api.addEventListener('execution_error', ({ detail }) => failed.push(detail.exception_message));
}"""
RAN = """() => failed.length || Object.keys(app.lastNodeErrors ?? {}).length || app.graph.nodes.filter(node => node.type === 'LIVEditorDecodeVideo').every(({ id, widgets }) => {
    const places = [document.querySelector(`[data-node-id="${id}"]`), ...widgets.map(widget => widget.element)].filter(Boolean);
    const videos = places.flatMap(place => [place, ...place.querySelectorAll('*')]).filter(each => each.tagName === 'VIDEO');
    return done[id]?.length && done[id].every(name => videos.some(video => video.src.includes(encodeURIComponent(name)) && video.videoWidth));
})"""
"""Whether every result plays on its node, or the run has failed or was refused."""
WENT_WRONG = "() => [...failed, ...Object.values(app.lastNodeErrors ?? {}), app.lastExecutionError].filter(Boolean)"


@pytest.mark.parametrize("name", sorted({*TINY, WITH_REFERENCE}, key=lambda name: int(name.split()[0])))
def test_a_template_of_the_included_model_runs_from_the_page_to_its_end(fresh_page, fresh_install, name):
    """In the way that users begin: choose it, press Run, and the edit plays on its node."""
    clip_in(fresh_install).unlink(missing_ok=True)
    page, picture = fresh_page, fresh_install.base / "input" / PICTURE
    if name == WITH_REFERENCE:
        Image.new("RGB", (64, 64), "orange").save(picture)
    chosen(page, name)
    page.evaluate(SET, SMALLER | OWN.get(name, {}))
    page.evaluate(FOLLOW)
    try:
        page.get_by_test_id("queue-button").dispatch_event("click")
        page.wait_for_function(RAN, timeout=120_000)
    finally:
        picture.unlink(missing_ok=True)
        shutil.rmtree(fresh_install.base / "input" / CLIPS, ignore_errors=True)
    assert page.evaluate(RED) == page.evaluate(WENT_WRONG) == []
    assert page.evaluate("() => document.querySelector('.isa-report').textContent").startswith("ISA: ")
