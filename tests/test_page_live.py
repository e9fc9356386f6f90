"""Attach ISA's panel on the real page: presets, what they cost, and sliders that act on the run that is going on."""

import json
import shutil

import pytest
from setup import BROWSER
from test_page import browser, drop, fresh, page, set_widgets, wait_for_nodes  # noqa: F401
from test_server import EXAMPLES, info  # noqa: F401

pytestmark = pytest.mark.skipif(not shutil.which(BROWSER), reason=f"needs {BROWSER}")

ISA = "window.app.graph.nodes.find(node => node.type === 'LIVEditorAttachISA')"
STEPS = 30


def widget(page, name: str):  # noqa: F811
    return page.evaluate(f"name => {ISA}.widgets.find(widget => widget.name === name)?.value", name)


@pytest.fixture
def graph(page):  # noqa: F811
    """The example workflow with the stand-in's values, many short steps, and every event about its runs in `window.seen`."""
    drop(page, EXAMPLES / "liveditor_edit_video.json", "application/json")
    wait_for_nodes(page, 12)
    changes = fresh()
    changes["KSampler"] |= {"steps": STEPS, "control_after_generate": "fixed"}
    set_widgets(page, changes)
    page.evaluate(
        "() => { window.seen = []; window.app.api.addEventListener('liveditor_isa.run', e => window.seen.push(e.detail)) }"
    )
    page.wait_for_selector(".isa-panel .isa-cost span:not(:empty)", timeout=20_000, state="attached")
    return page


def queue(page):  # noqa: F811
    """Run, and come back at its third step."""
    page.evaluate("() => { window.seen.length = 0 }")
    page.get_by_test_id("queue-button").dispatch_event("click")
    page.wait_for_function("() => window.seen.filter(e => e.type === 'step').length >= 3", timeout=120_000)


def ended(page) -> list[dict]:  # noqa: F811
    page.wait_for_function("() => window.seen.some(e => e.type === 'ended')", timeout=120_000)
    return page.evaluate("() => window.seen")


def press(page, name: str):  # noqa: F811
    page.locator(".isa-presets button", has_text=name).first.dispatch_event("click")


def cost(page) -> str:  # noqa: F811
    return page.locator(".isa-cost span").first.text_content()


def test_presets_set_the_widgets_and_the_bar_says_what_they_cost(graph):
    graph.wait_for_function("() => document.querySelector('.isa-presets .isa-chosen')?.textContent === 'Paper'")
    graph.wait_for_function("() => document.querySelector('.isa-cost span').textContent.includes('360 tokens')")
    paper = cost(graph)
    assert "of full attention's arithmetic, 360 tokens" in paper
    press(graph, "Lossless")
    graph.wait_for_function("before => document.querySelector('.isa-cost span').textContent !== before", arg=paper)
    assert (widget(graph, "keep_ratio"), widget(graph, "routing.dense_query_ratio"), widget(graph, "exact_ratio")) == (1, 1, 1)
    press(graph, "Paper")
    graph.wait_for_function("before => document.querySelector('.isa-cost span').textContent === before", arg=paper)
    assert widget(graph, "keep_ratio") == 0.125

    # By threshold: a preset goes back to ratios.
    set_widgets(graph, {"LIVEditorAttachISA": {"routing": "threshold"}})
    graph.wait_for_function(f"() => {ISA}.widgets.some(widget => widget.name === 'routing.sharpness_threshold')")
    press(graph, "Even")
    graph.wait_for_function("() => document.querySelector('.isa-presets .isa-chosen')?.textContent === 'Even'")
    assert widget(graph, "routing") == "ratio" and widget(graph, "routing.dense_query_ratio") == 0


def test_a_preset_of_ones_own_is_saved_with_the_workflow(graph):
    set_widgets(graph, {"LIVEditorAttachISA": {"keep_ratio": 0.4}})
    press(graph, "+")
    graph.get_by_role("dialog").get_by_role("textbox").fill("mine")
    graph.keyboard.press("Enter")
    graph.wait_for_function("() => [...document.querySelectorAll('.isa-presets button')].some(b => b.textContent === 'mine')")
    saved = graph.evaluate("() => window.app.graph.serialize()")
    kept = next(node for node in saved["nodes"] if node["type"] == "LIVEditorAttachISA")
    assert kept["properties"]["isa_presets"]["mine"]["keep_ratio"] == 0.4
    press(graph, "Turbo")
    graph.evaluate("saved => window.app.loadGraphData(saved)", saved)
    graph.wait_for_function("() => [...document.querySelectorAll('.isa-presets button')].some(b => b.textContent === 'mine')")
    assert widget(graph, "keep_ratio") == 0.4


def test_a_slider_moved_in_mid_run_acts_on_the_later_steps_and_the_workflow_repeats_them(graph):
    queue(graph)
    set_widgets(graph, {"LIVEditorAttachISA": {"keep_ratio": 1, "routing.dense_query_ratio": 1}})
    events = ended(graph)
    steps = [event for event in events if event["type"] == "step"]
    assert [step["step"] for step in steps] == list(range(STEPS))
    at = next(step["step"] for step in steps if step["values"]["keep_ratio"] == 1)
    assert 3 <= at < STEPS
    assert all(step["density"] < 0.9 for step in steps[:at])
    # One look of the page may fall between the two widgets.
    assert all(step["density"] == 1 for step in steps[at + 5 :])
    graph.get_by_text(f"From step {at + 1}: keep_ratio 1").first.wait_for(timeout=20_000)
    graph.get_by_text("Repeats the last run's live changes.").first.wait_for()
    changes = json.loads(widget(graph, "live_changes"))
    assert changes[0][1]["keep_ratio"] == 0.125 and changes[1][0] == at
    assert widget(graph, "keep_ratio") == 1

    # Saved and opened again it runs the same; a slider that is moved then makes it forget.
    graph.evaluate("async () => window.app.loadGraphData(window.app.graph.serialize())")
    graph.wait_for_timeout(500)
    assert json.loads(widget(graph, "live_changes")) == changes
    queue(graph)
    again = [event for event in ended(graph) if event["type"] == "step"]
    assert [step["density"] for step in again] == [step["density"] for step in steps]
    assert json.loads(widget(graph, "live_changes")) == changes
    set_widgets(graph, {"LIVEditorAttachISA": {"exact_ratio": 0.5}})
    graph.wait_for_function(f"() => {ISA}.widgets.find(widget => widget.name === 'live_changes').value === ''")


def test_the_switch_turns_isa_off_and_on_in_mid_run(graph):
    queue(graph)
    set_widgets(graph, {"LIVEditorAttachISA": {"enabled": False}})
    graph.wait_for_function("() => window.seen.some(e => e.type === 'step' && 'switched off' in e.full)", timeout=60_000)
    set_widgets(graph, {"LIVEditorAttachISA": {"enabled": True}})
    steps = [event for event in ended(graph) if event["type"] == "step"]
    off = [step["step"] for step in steps if "density" not in step]
    assert off == list(range(off[0], off[-1] + 1)) and 3 <= off[0] and off[-1] < STEPS
    assert {"isa", "full"} <= steps[-1]["pace"].keys()


def test_a_page_reloaded_in_mid_run_goes_on_showing_and_changing_it(graph, server):
    queue(graph)
    graph.reload()
    graph.wait_for_function("window.app?.graph?.nodes?.length === 12 && window.app.extensionManager", timeout=60_000)
    graph.evaluate(
        "() => { window.seen = []; window.app.api.addEventListener('liveditor_isa.run', e => window.seen.push(e.detail)) }"
    )
    graph.wait_for_function("() => document.querySelector('.isa-now')?.textContent.includes('density')", timeout=60_000)
    assert [event for event in ended(graph) if event["type"] == "step"][-1]["step"] == STEPS - 1


INSIDE = """() => {
    const [subgraph] = window.app.rootGraph.nodes.filter(node => node.subgraph);
    return subgraph.subgraph.nodes.find(node => node.type === 'LIVEditorAttachISA');
}"""


def test_a_node_in_a_subgraph(graph):
    graph.evaluate(f"() => {{ window.app.graph.convertToSubgraph(new Set([{ISA}])) }}")
    graph.wait_for_function("() => window.app.rootGraph.nodes.some(node => node.subgraph)")
    queue(graph)
    outer = graph.evaluate("() => window.app.rootGraph.nodes.find(node => node.subgraph).id")
    assert {event["node"] for event in graph.evaluate("() => window.seen")} == {f"{outer}:3"}
    graph.evaluate(f"() => {{ ({INSIDE})().widgets.find(widget => widget.name === 'keep_ratio').value = 0.75 }}")
    steps = [event for event in ended(graph) if event["type"] == "step"]
    assert steps[0]["values"]["keep_ratio"] == 0.125 and steps[-1]["values"]["keep_ratio"] == 0.75
    graph.wait_for_function(f"() => ({INSIDE})().widgets.find(widget => widget.name === 'live_changes').value !== ''")


TWICE = """() => {
    const graph = window.app.graph;
    const copies = ['LIVEditorAttachISA', 'ModelSamplingSD3', 'KSampler', 'LIVEditorDecodeVideo'].map(type => {
        const node = graph.nodes.find(node => node.type === type), copy = node.clone();
        copy.id = -1; // has the graph give it a number
        graph.add(copy);
        node.inputs.forEach((input, slot) => {
            const link = graph.links.get(input.link);
            if (link) graph.getNodeById(link.origin_id).connect(link.origin_slot, copy, slot);
        });
        return copy;
    });
    for (const index of [0, 1, 2]) copies[index].connect(0, copies[index + 1], 0);
    copies[2].widgets.find(widget => widget.name === 'seed').value += 1;
    return copies[0].id;
}"""


def test_two_nodes_are_changed_each_by_itself(graph):
    first = graph.evaluate(f"() => {ISA}.id")
    second = graph.evaluate(TWICE)
    graph.evaluate("() => { window.seen.length = 0 }")
    graph.get_by_test_id("queue-button").dispatch_event("click")
    graph.wait_for_function(
        "id => window.seen.filter(e => e.type === 'step' && e.node == id).length >= 3", arg=second, timeout=120_000
    )
    keep = "id => window.app.graph.getNodeById(id).widgets.find(widget => widget.name === 'keep_ratio')"
    graph.evaluate(f"id => {{ ({keep})(id).value = 0.8 }}", second)
    graph.wait_for_function("() => window.seen.filter(e => e.type === 'ended').length === 2", timeout=120_000)
    steps = graph.evaluate("() => window.seen.filter(e => e.type === 'step')")
    ratios = {
        str(node): [step["values"]["keep_ratio"] for step in steps if step["node"] == str(node)] for node in (first, second)
    }
    assert ratios[str(first)] == [0.125] * STEPS
    assert ratios[str(second)][0] == 0.125 and ratios[str(second)][-1] == 0.8
    assert graph.evaluate(f"id => ({keep})(id).value", first) == 0.125
    changes = "id => window.app.graph.getNodeById(id).widgets.find(widget => widget.name === 'live_changes').value"
    assert graph.evaluate(changes, first) == "" and "0.8" in graph.evaluate(changes, second)


def test_a_server_that_goes_away_in_mid_run(graph):
    """Requests that fail say so on the node; when the page is back, no run is going on."""
    queue(graph)
    graph.route("**/liveditor_isa/**", lambda route: route.abort())
    set_widgets(graph, {"LIVEditorAttachISA": {"keep_ratio": 0.6}})
    graph.get_by_text("The server does not answer.").first.wait_for(timeout=20_000)
    graph.unroute("**/liveditor_isa/**")
    steps = [event for event in ended(graph) if event["type"] == "step"]
    assert all(step["values"]["keep_ratio"] == 0.125 for step in steps)
