"""Attach ISA's panel on the real page: presets, what they cost, and sliders that act on the run that is going on."""

import json
import shutil
import time
from itertools import product

import pytest
from browser_page import after_frames, after_looks, drop, open_page, set_widgets, wait_until
from comfy_headless import ComfyServer
from examples import EXAMPLES, fresh

ISA = "window.app.graph.nodes.find(node => node.type === 'LIVEditorAttachISA')"
STEPS = 16
LONGER = 24
"""Steps where a page or a workflow is opened in the middle of a run."""
LONG = 60_000
"""Milliseconds in which a busy machine has drawn what was asked for."""

one_way = pytest.mark.parametrize("page", ["canvas nodes"], indirect=True)
"""Where it matters little how the page draws nodes."""


def widget(page, name: str):
    return page.evaluate(f"name => {ISA}.widgets.find(widget => widget.name === name)?.value", name)


def load_example(page):
    """The example workflow with the stand-in's values, many short steps, each of which computes the context, and every event
    about its runs in `window.seen`."""
    drop(page, EXAMPLES / "2 LIVEditor-14B.json", "application/json")
    changes = fresh()
    changes["KSampler"] |= {"steps": STEPS, "control_after_generate": "fixed"}
    changes["LIVEditorAttachISA"] |= {"context_refresh": 0}
    set_widgets(page, changes)
    page.evaluate(
        "() => { window.seen = []; window.app.api.addEventListener('liveditor_isa.run', e => window.seen.push(e.detail)) }"
    )
    page.wait_for_selector(".isa-panel .isa-cost span:not(:empty)", timeout=LONG, state="attached")


@pytest.fixture
def graph(page):
    load_example(page)
    return page


def queue(page, steps: int = STEPS):
    """Run, and come back at its third step."""
    if steps != STEPS:
        set_widgets(page, {"KSampler": {"steps": steps}})
    page.evaluate("() => { window.seen.length = 0 }")
    page.get_by_test_id("queue-button").dispatch_event("click")
    page.wait_for_function("() => window.seen.filter(e => e.type === 'step').length >= 3", timeout=120_000)


def ended(page) -> list[dict]:
    page.wait_for_function("() => window.seen.some(e => e.type === 'ended')", timeout=120_000)
    return page.evaluate("() => window.seen")


def press(page, name: str):
    page.locator(".isa-presets button", has_text=name).first.dispatch_event("click")


def cost(page) -> str:
    return page.locator(".isa-cost span").first.text_content()


def test_presets_set_the_widgets_and_the_bar_says_what_they_cost(graph):
    set_widgets(graph, {"LIVEditorAttachISA": {"context_refresh": 1}})
    graph.wait_for_function("() => document.querySelector('.isa-presets .isa-chosen')?.textContent === 'Paper'")
    # The bar may still say what it said before, without reuse.
    graph.wait_for_function("() => document.querySelector('.isa-cost span').textContent.includes('in reuses), 360 tokens')")
    paper = cost(graph)
    assert "of full attention's arithmetic (" in paper and "in reuses), 360 tokens" in paper
    press(graph, "Exact")
    graph.wait_for_function(
        "() => document.querySelector('.isa-cost span').textContent === 'Full attention: ISA is switched off'"
    )
    assert widget(graph, "enabled") is False
    assert graph.locator(".isa-quality").first.text_content() == "Exact: full attention in every step"
    assert (widget(graph, "keep_ratio"), widget(graph, "routing.dense_query_ratio"), widget(graph, "exact_ratio")) == (1, 1, 1)
    press(graph, "Paper")
    graph.wait_for_function("before => document.querySelector('.isa-cost span').textContent === before", arg=paper)
    assert widget(graph, "keep_ratio") == 0.125 and widget(graph, "enabled") is True

    # By threshold: a preset chooses its own way to route.
    set_widgets(graph, {"LIVEditorAttachISA": {"routing": "threshold"}})
    graph.wait_for_function(f"() => {ISA}.widgets.some(widget => widget.name === 'routing.sharpness_threshold')")
    press(graph, "Balanced")
    graph.wait_for_function("() => document.querySelector('.isa-presets .isa-chosen')?.textContent === 'Balanced'")
    graph.wait_for_function("() => document.querySelector('.isa-cost span').textContent.includes('in reuses), 360 tokens')")
    assert widget(graph, "routing") == "segment_top_k"
    idle = f"() => {ISA}.widgets.filter(widget => widget.disabled).map(widget => widget.name)"
    assert graph.evaluate(idle) == ["keep_ratio", "sharpness", "context_tail"]
    assert widget(graph, "exact_ratio") == 0.28
    press(graph, "Paper")
    graph.wait_for_function("before => document.querySelector('.isa-cost span').textContent === before", arg=paper)
    assert widget(graph, "routing") == "ratio" and widget(graph, "routing.dense_query_ratio") == 0.5
    assert graph.evaluate(idle) == []


def test_every_way_to_route_opens_as_it_was_saved(graph):
    """One of them has no input of its own, so that the values behind it stand elsewhere."""
    values = f"() => {ISA}.widgets.filter(widget => widget.serialize !== false).map(widget => [widget.name, widget.value])"
    for refresh, routing in enumerate(("ratio", "threshold", "error_aware", "segment_top_k"), 1):
        set_widgets(graph, {"LIVEditorAttachISA": {"routing": routing}})
        set_widgets(graph, {"LIVEditorAttachISA": {"exact_ratio": 0.11, "min_tokens": 640, "context_refresh": refresh / 4}})
        before = graph.evaluate(values)
        assert dict(before)["routing"] == routing
        graph.evaluate("async () => await window.app.loadGraphData(JSON.parse(JSON.stringify(window.app.graph.serialize())))")
        graph.wait_for_function(
            f"value => {ISA}?.widgets.some(widget => widget.name === 'context_refresh' && widget.value === value)",
            arg=refresh / 4,
        )
        assert graph.evaluate(values) == before


@one_way
def test_the_bar_says_where_isa_does_not_act_and_what_nobody_knows_before(graph):
    def bar(text: str) -> str:
        graph.wait_for_function("text => document.querySelector('.isa-cost span').textContent.includes(text)", arg=text)
        return graph.evaluate("() => document.querySelector('.isa-cost div').style.width")

    def attach(**values):
        set_widgets(graph, {"LIVEditorAttachISA": values})

    attach(min_tokens=12288)
    assert bar("Full attention: 360 tokens, fewer than min_tokens 12288") == "100%"
    attach(min_tokens=0, end_percent=0.5, dense_blocks="0-1")
    assert bar("of full attention's arithmetic, 360 tokens") != "100%"
    title = graph.evaluate("() => document.querySelector('.isa-cost').title")
    assert "end_percent 0.5" in title and "dense_blocks 0-1" in title
    graph.evaluate(
        """() => {
            const image = window.LiteGraph.createNode('LoadImage'), { graph } = window.app;
            const to = graph.nodes.find(node => node.type === 'LIVEditorInContextReferences');
            graph.add(image);
            image.connect(0, to, to.inputs.findIndex(input => input.name === 'references.reference_0'));
        }"""
    )
    bar("about 420 tokens")
    graph.evaluate("() => window.app.graph.remove(window.app.graph.nodes.find(node => node.type === 'LoadImage'))")
    attach(end_percent=1, dense_blocks="", routing="threshold")
    bar("By threshold: depends on the video, 360 tokens")
    queue(graph)
    measured = bar("of full attention's arithmetic measured, 360 tokens")
    last = [event for event in ended(graph) if event["type"] == "step"][-1]
    assert 0 < float(measured.rstrip("%")) and 0 < last["flop_ratio"]


@one_way
def test_a_preset_of_ones_own_is_saved_with_the_workflow(graph):
    set_widgets(graph, {"LIVEditorAttachISA": {"keep_ratio": 0.4}})
    press(graph, "+")
    graph.get_by_role("dialog").get_by_role("textbox").fill("mine")
    graph.keyboard.press("Enter")
    graph.wait_for_function("() => [...document.querySelectorAll('.isa-presets button')].some(b => b.textContent === 'mine')")
    saved = graph.evaluate("() => window.app.graph.serialize()")
    kept = next(node for node in saved["nodes"] if node["type"] == "LIVEditorAttachISA")
    assert kept["properties"]["isa_presets"]["mine"]["keep_ratio"] == 0.4
    press(graph, "+")
    graph.get_by_role("dialog").get_by_role("textbox").fill("Paper")
    graph.keyboard.press("Enter")
    graph.get_by_text("Paper is a preset that comes with the node").first.wait_for(timeout=LONG)

    # Removed without being applied.
    press(graph, "Fast")
    graph.locator(".isa-own button", has_text="✕").first.dispatch_event("click")
    assert not graph.locator(".isa-own").count() and widget(graph, "keep_ratio") == 1
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
    graph.get_by_text(f"From model call {at + 1}: keep_ratio 1").first.wait_for(timeout=LONG)
    graph.get_by_text("Repeats the last run's live changes.").first.wait_for()
    changes = json.loads(widget(graph, "live_changes"))
    [(_, values), (first, _), *_] = changes[graph.evaluate("() => String(app.graph.nodes.find(n => n.type === 'KSampler').id)")]
    assert values["keep_ratio"] == 0.125 and first == at
    assert widget(graph, "keep_ratio") == 1

    # Saved and opened again it runs the same; a slider that is moved then makes it forget.
    graph.evaluate("async () => window.app.loadGraphData(window.app.graph.serialize())")
    after_looks(graph, 5)  # none of which may take what was loaded for a slider that was moved
    assert json.loads(widget(graph, "live_changes")) == changes
    queue(graph)
    again = [event for event in ended(graph) if event["type"] == "step"]
    assert [step["density"] for step in again] == [step["density"] for step in steps]
    assert json.loads(widget(graph, "live_changes")) == changes
    set_widgets(graph, {"LIVEditorAttachISA": {"keep_ratio": 0.125, "routing.dense_query_ratio": 0.5}})
    graph.wait_for_function(f"() => {ISA}.widgets.find(widget => widget.name === 'live_changes').value === ''")


@one_way
def test_the_server_does_not_take_a_changed_result_for_the_settings_own(graph):
    queue(graph)
    set_widgets(graph, {"LIVEditorAttachISA": {"keep_ratio": 0.7}})
    assert [event for event in ended(graph) if event["type"] == "step"][-1]["values"]["keep_ratio"] == 0.7
    set_widgets(graph, {"LIVEditorAttachISA": {"keep_ratio": 0.125}})
    graph.wait_for_function(f"() => {ISA}.widgets.find(widget => widget.name === 'live_changes').value === ''")
    # All is as when the first run was queued.
    queue(graph)
    plain = [event for event in ended(graph) if event["type"] == "step"]
    assert {step["values"]["keep_ratio"] for step in plain} == {0.125} and widget(graph, "live_changes") == ""


@one_way
def test_the_mp4_of_a_run_that_was_changed_live_repeats_it(graph, server, tmp_path):
    graph.evaluate("() => { window.done = []; window.app.api.addEventListener('executed', e => window.done.push(e.detail)) }")
    queue(graph)
    set_widgets(graph, {"LIVEditorAttachISA": {"keep_ratio": 0.7}})
    ended(graph)
    graph.wait_for_function("() => window.done.some(output => output.output?.animated)", timeout=60_000)
    [shown] = graph.evaluate("() => window.done.find(output => output.output?.animated).output.images")
    changes = widget(graph, "live_changes")
    assert '"keep_ratio": 0.7' in changes
    video = shutil.copy(server.base / "output" / shown["subfolder"] / shown["filename"], tmp_path / "dropped.mp4")
    graph.evaluate("() => window.app.graph.clear()")
    drop(graph, video, "video/mp4")
    assert widget(graph, "live_changes") == changes


@one_way
def test_the_first_of_two_queued_runs_keeps_its_record(graph):
    graph.evaluate("() => { window.seen.length = 0 }")
    for _ in range(2):
        graph.evaluate(
            "seed => { app.graph.nodes.find(n => n.type === 'KSampler').widgets[0].value = seed; return app.queuePrompt(0, 1) }",
            time.time_ns() % 2**32,
        )
    graph.wait_for_function("() => window.seen.filter(e => e.type === 'step').length >= 3", timeout=120_000)
    set_widgets(graph, {"LIVEditorAttachISA": {"keep_ratio": 0.7}})
    graph.wait_for_function("() => window.seen.filter(e => e.type === 'ended').length === 2", timeout=120_000)
    first, second = graph.evaluate("() => window.seen.filter(e => e.type === 'ended')")
    assert '"keep_ratio": 0.7' in first["changes"]
    # The second was queued before, and goes its own way.
    assert second["values"]["keep_ratio"] == 0.125 and second["changes"] == ""
    assert widget(graph, "live_changes") == first["changes"] and widget(graph, "keep_ratio") == 0.7


@one_way
def test_changes_that_were_refused_or_lost_are_sent_again(graph):
    answers = ["lost", 429]

    def answer(route):
        if not answers:
            return route.continue_()
        how = answers.pop(0)
        return route.abort() if how == "lost" else route.fulfill(status=how, json={"error": "Too many changes"})

    queue(graph)
    graph.route("**/liveditor_isa/live", answer)
    set_widgets(graph, {"LIVEditorAttachISA": {"keep_ratio": 0.6}})
    wait_until(graph, lambda: len(answers) < 2)
    set_widgets(graph, {"LIVEditorAttachISA": {"exact_ratio": 0.5}})
    values = [event for event in ended(graph) if event["type"] == "step"][-1]["values"]
    assert not answers and (values["keep_ratio"], values["exact_ratio"]) == (0.6, 0.5)


@one_way
def test_a_slider_moved_before_the_run_began_goes_with_the_next_one_that_is_moved(graph):
    graph.evaluate("() => { window.seen.length = 0 }")
    # Once the page has made the prompt, and before the server has it.
    graph.evaluate(
        f"""async () => {{
            const {{ queuePrompt }} = app.api;
            app.api.queuePrompt = function (...prompt) {{
                app.api.queuePrompt = queuePrompt;
                {ISA}.widgets.find(widget => widget.name === 'keep_ratio').value = 0.6;
                return queuePrompt.apply(this, prompt);
            }};
            await app.queuePrompt(0, 1);
        }}"""
    )
    graph.get_by_text("This run goes on with keep_ratio 0.125").first.wait_for(timeout=60_000)
    set_widgets(graph, {"LIVEditorAttachISA": {"exact_ratio": 0.5}})
    values = [event for event in ended(graph) if event["type"] == "step"][-1]["values"]
    assert (values["keep_ratio"], values["exact_ratio"]) == (0.6, 0.5)
    graph.get_by_text("Repeats the last run's live changes.").first.wait_for()


@one_way
def test_the_record_of_a_run_that_the_widgets_do_not_have_is_offered(graph):
    queue(graph)
    set_widgets(graph, {"LIVEditorAttachISA": {"keep_ratio": 0.6}})
    graph.wait_for_function("() => window.seen.at(-1).values?.keep_ratio === 0.6", timeout=60_000)
    graph.route("**/liveditor_isa/live", lambda route: route.fulfill(status=400, json={"error": "Not so."}))
    set_widgets(graph, {"LIVEditorAttachISA": {"keep_ratio": 0.9}})
    changes = next(event["changes"] for event in ended(graph) if event["type"] == "ended")  # a heat map may come after it
    graph.get_by_text("This run was changed live.").first.wait_for()
    assert '"keep_ratio": 0.6' in changes
    assert (widget(graph, "keep_ratio"), widget(graph, "live_changes")) == (0.9, "")
    graph.locator(".isa-replay button", has_text="repeat it").first.dispatch_event("click")
    graph.get_by_text("Repeats the last run's live changes.").first.wait_for()
    after_looks(graph, 3)  # none of which may take the repeated values for sliders that were moved
    assert (widget(graph, "keep_ratio"), widget(graph, "live_changes")) == (0.6, changes)


@one_way
def test_sliders_may_be_kept_for_the_next_run(graph):
    graph.evaluate("() => app.extensionManager.setting.set('LIVEditor.LiveTuning', false)")
    try:
        queue(graph)
        set_widgets(graph, {"LIVEditorAttachISA": {"keep_ratio": 0.6}})
        graph.get_by_text("This run goes on with keep_ratio 0.125").first.wait_for(timeout=LONG)
        assert {event["values"]["keep_ratio"] for event in ended(graph) if event["type"] == "step"} == {0.125}
        assert widget(graph, "keep_ratio") == 0.6 and widget(graph, "live_changes") == ""
    finally:
        graph.evaluate("() => app.extensionManager.setting.set('LIVEditor.LiveTuning', true)")


@one_way
def test_a_slider_that_is_released_between_runs_queues_one(graph):
    graph.evaluate("() => app.extensionManager.setting.set('LIVEditor.AutoQueue', true)")
    try:
        graph.mouse.move(800, 900)
        graph.mouse.down()
        for value in (0.3, 0.4):
            set_widgets(graph, {"LIVEditorAttachISA": {"keep_ratio": value}})
            after_looks(graph, 3)  # none of which may queue a run while the mouse is down
        assert not graph.evaluate("() => window.seen.some(e => e.type === 'started')")
        graph.mouse.up()
        started = [event for event in ended(graph) if event["type"] == "started"]
        assert [event["values"]["keep_ratio"] for event in started] == [0.4]
    finally:
        graph.evaluate("() => app.extensionManager.setting.set('LIVEditor.AutoQueue', false)")


@one_way
def test_a_slider_that_is_released_while_the_server_works_queues_a_run_afterwards(graph):
    graph.evaluate("() => app.extensionManager.setting.set('LIVEditor.AutoQueue', true)")
    try:
        # The server's own word, about a run before this one for example, does not come between.
        graph.evaluate(
            """() => {
                const { dispatchCustomEvent } = app.api;
                app.api.dispatchCustomEvent = (type, ...rest) => type !== 'status' && dispatchCustomEvent.call(app.api, type, ...rest);
                window.says = (count) => dispatchCustomEvent.call(app.api, 'status', { exec_info: { queue_remaining: count } });
            }"""
        )
        # What is loaded or decoded is no sampling run, so the panel knows nothing of it.
        graph.evaluate("() => { says(1) }")
        set_widgets(graph, {"LIVEditorAttachISA": {"keep_ratio": 0.3}})
        after_looks(graph, 10)  # none of which may queue a run while the server works
        assert not graph.evaluate("() => window.seen.length")
        graph.evaluate("() => { delete app.api.dispatchCustomEvent; says(0) }")
        assert [event["values"]["keep_ratio"] for event in ended(graph) if event["type"] == "started"] == [0.3]
    finally:
        graph.evaluate("() => { delete app.api.dispatchCustomEvent }")
        graph.evaluate("() => app.extensionManager.setting.set('LIVEditor.AutoQueue', false)")


def files_of(server) -> list[str]:
    return sorted(str(path) for folder in ("output", "temp") for path in (server.base / folder).rglob("*.mp4"))


@one_way
def test_the_speed_test_keeps_the_shown_edit_and_writes_nothing(graph, server):
    graph.evaluate("() => { window.done = []; window.app.api.addEventListener('executed', e => window.done.push(e.detail)) }")
    queue(graph, 4)
    graph.wait_for_function("() => window.done.some(output => output.output?.liveditor_video)", timeout=120_000)
    shown = "() => JSON.stringify(Object.values(app.nodeOutputs).filter(output => output.animated))"
    before, edit, files = graph.evaluate(WIDGETS), graph.evaluate(shown), files_of(server)
    seed = widget_of(graph, "KSampler", "seed")
    graph.evaluate("() => { window.seen.length = 0 }")
    sent = []
    graph.on(
        "request", lambda request: sent.append(request.post_data_json["prompt"]) if request.url.endswith("/prompt") else None
    )
    press(graph, "Speed test")
    line = r"ISA [\d.]+ s, full attention [\d.]+ s a step on average: [\d.]+× as fast\."
    graph.wait_for_function(
        "line => new RegExp(line).test(document.querySelector('.isa-now').textContent)", arg=line, timeout=120_000
    )
    full, isa = graph.evaluate("() => window.seen.filter(e => e.type === 'started').map(e => e.values.enabled)")
    assert (full, isa) == (False, True)
    kinds = [{node["class_type"] for node in prompt.values()} for prompt in sent]
    assert len(kinds) == 2 and not any("LIVEditorDecodeVideo" in each for each in kinds)
    assert {node["inputs"]["seed"] for prompt in sent for node in prompt.values() if node["class_type"] == "KSampler"} == {seed}
    assert (graph.evaluate(WIDGETS), graph.evaluate(shown), files_of(server)) == (before, edit, files)
    # On other settings it would be another's number.
    set_widgets(graph, {"LIVEditorAttachISA": {"keep_ratio": 0.9}})
    graph.wait_for_function("() => !document.querySelector('.isa-now').textContent.includes('on average')", timeout=LONG)


@one_way
def test_a_slider_moved_in_a_speed_test_is_for_the_next_run(graph):
    """The test keeps to its settings, and leaves no record that the next run would repeat."""
    set_widgets(graph, {"KSampler": {"steps": LONGER}})
    sent = []
    graph.on("request", lambda request: sent.append(request.url) if request.url.endswith("liveditor_isa/live") else None)
    press(graph, "Speed test")
    graph.wait_for_function("() => document.querySelector('.isa-now').textContent.startsWith('Speed test: step')", timeout=LONG)
    set_widgets(graph, {"LIVEditorAttachISA": {"exact_ratio": 0.4, "enabled": False}})
    graph.wait_for_function("() => window.seen.filter(e => e.type === 'ended').length === 2", timeout=120_000)
    after_looks(graph, 5)  # none of which may take a record
    values = [event["values"] for event in graph.evaluate("() => window.seen") if event["type"] == "step"]
    assert {(each["enabled"], each["exact_ratio"]) for each in values} == {(False, 0.0625), (True, 0.0625)}
    assert not sent and widget(graph, "live_changes") == "" and widget(graph, "exact_ratio") == 0.4


@one_way
def test_a_bypassed_node_says_so_and_shows_nothing_of_the_run_before(graph):
    queue(graph)
    ended(graph)
    graph.wait_for_function("() => document.querySelector('.isa-report').textContent.includes('ISA: ')", timeout=LONG)
    graph.evaluate(f"() => {{ {ISA}.mode = 4 }}")
    bypassed = "Full attention: this node is bypassed or muted"
    graph.wait_for_function("text => document.querySelector('.isa-cost span').textContent === text", arg=bypassed)
    graph.evaluate("() => { app.extensionManager.command.execute('LIVEditor.SpeedTest') }")
    graph.get_by_text(f"There is nothing to compare. {bypassed}").first.wait_for(timeout=LONG)
    set_widgets(graph, {"KSampler": {"steps": 1}})
    graph.get_by_test_id("queue-button").dispatch_event("click")
    graph.wait_for_function(f"() => !({PANEL})()", timeout=LONG)
    graph.evaluate(f"() => {{ {ISA}.mode = 0 }}")


WIDGETS = "() => Object.fromEntries(app.graph.serialize().nodes.map(node => [node.id, JSON.stringify(node.widgets_values)]))"


def widget_of(page, kind: str, name: str):
    find = "app.graph.nodes.find(node => node.type === kind).widgets.find(widget => widget.name === name).value"
    return page.evaluate(f"([kind, name]) => {find}", [kind, name])


@one_way
def test_the_speed_test_refuses_at_once_where_there_is_nothing_to_compare(graph):
    set_widgets(graph, {"LIVEditorAttachISA": {"min_tokens": 12288}, "KSampler": {"steps": 2}})
    graph.evaluate("() => { app.extensionManager.command.execute('LIVEditor.SpeedTest') }")
    said = graph.get_by_text("There is nothing to compare.").first
    said.wait_for(timeout=LONG)
    assert "Full attention: 360 tokens, fewer than min_tokens 12288. Lower min_tokens" in said.text_content()
    after_looks(graph, 5)  # in which nothing may be queued
    assert not graph.evaluate("() => window.seen.length")


@one_way
def test_a_prompt_that_edits_nothing_is_warned_of(graph):
    set_widgets(graph, {"CLIPTextEncode": {"text": "  "}, "KSampler": {"steps": 1}})
    graph.get_by_test_id("queue-button").dispatch_event("click")
    empty = "The instruction is empty: write what to change."
    graph.get_by_text(empty).first.wait_for(timeout=LONG)
    ended(graph)
    # A message goes after some seconds; the panel says it as long as the run is the last one.
    assert empty in graph.evaluate(PANEL)
    set_widgets(graph, {"CLIPTextEncode": {"text": "Make it night"}})
    graph.get_by_test_id("queue-button").dispatch_event("click")
    graph.wait_for_function(f"text => !({PANEL})().includes(text)", arg=empty, timeout=LONG)


PANEL = "() => ['now', 'report'].map(part => document.querySelector(`.isa-${part}`).textContent).join('')"


@one_way
def test_a_template_that_is_opened_again_shows_nothing_of_the_run_before(graph):
    """In its own place, and as a copy beside it: all have the same id, and their nodes the same numbers."""
    name, path = "2 LIVEditor-14B", EXAMPLES / "2 LIVEditor-14B.json"
    mine = graph.evaluate("() => window.app.extensionManager.workflow.activeWorkflow.path")
    queue(graph)
    ended(graph)
    graph.wait_for_function("() => document.querySelector('.isa-now').textContent.includes(' in all')", timeout=LONG)
    graph.evaluate("() => window.app.loadGraphData({ nodes: [], links: [], version: 0.4 })")
    drop(graph, path, "application/json")
    after_looks(graph, 5)  # none of which may show the other's
    assert graph.evaluate("() => window.app.extensionManager.workflow.activeWorkflow.path") != mine
    assert graph.evaluate(PANEL) == "" and graph.evaluate("() => document.querySelector('.isa-thumbnail').hidden")
    go_back(graph, mine)
    graph.wait_for_function("() => document.querySelector('.isa-now')?.textContent.includes(' in all')", timeout=LONG)
    open_template = "([saved, name]) => window.app.loadGraphData(saved, true, true, name, { openSource: 'template' })"
    graph.evaluate(open_template, [json.loads(path.read_text(encoding="utf-8")), name])
    assert graph.evaluate("() => window.app.extensionManager.workflow.activeWorkflow.path") == mine
    after_looks(graph, 5)  # none of which may show the run before
    assert graph.evaluate(PANEL) == ""


FOLLOW_PANEL = f"""frames => {{
    window.panel = new Set();
    setInterval(() => {{
        const of = type => app.graph.nodes.find(node => node.type === type);
        if (of('LIVEditorInContextReferences')?.widgets?.find(widget => widget.name === 'length')?.value !== frames) return;
        const element = {ISA}?.widgets?.find(widget => widget.name === 'isa_panel')?.element;
        if (element) panel.add(['cost span', 'quality', 'now', 'report'].map(part => element.querySelector(`.isa-${{part}}`).textContent).join(' | '));
    }}, 10);
}}"""
"""What the panel shows while a workflow of so many frames is on the page."""


def test_a_dropped_mp4_shows_nothing_of_the_workflow_before(graph, server, tmp_path):
    """Another length, preset and run, on a node of the same number."""
    graph.evaluate("() => { window.done = []; window.app.api.addEventListener('executed', e => window.done.push(e.detail)) }")
    ran = "count => window.done.filter(output => output.output?.liveditor_video).length === count"
    press(graph, "Fast")
    queue(graph, 4)
    graph.wait_for_function(ran, arg=1, timeout=120_000)
    [shown] = graph.evaluate("() => window.done.find(output => output.output?.liveditor_video).output.liveditor_video")
    video = shutil.copy(server.base / "output" / shown["subfolder"] / shown["filename"], tmp_path / "dropped.mp4")
    mine = graph.evaluate(f"() => String({ISA}.id)")

    graph.evaluate("() => window.app.loadGraphData({ nodes: [], links: [], version: 0.4 })")
    load_example(graph)
    set_widgets(graph, {"LIVEditorInContextReferences": {"length": 5}})
    press(graph, "Quality")
    queue(graph, 6)
    ended(graph)
    graph.wait_for_function("() => document.querySelector('.isa-now').textContent.includes(' in all')", timeout=LONG)
    graph.wait_for_function("() => document.querySelector('.isa-report').textContent.startsWith('ISA: ')", timeout=LONG)
    graph.wait_for_function("() => document.querySelector('.isa-cost span').textContent.includes('240 tokens')", timeout=LONG)
    assert not graph.evaluate("() => document.querySelector('.isa-thumbnail').hidden")
    assert graph.evaluate(f"() => String({ISA}.id)") == mine
    graph.evaluate(FOLLOW_PANEL, 9)
    drop(graph, video, "video/mp4")
    graph.wait_for_function("() => [...window.panel].some(text => text.includes('360 tokens'))", timeout=LONG)
    after_looks(graph, 5)  # none of which may show the other's
    for text in graph.evaluate("() => [...window.panel]"):
        cost, quality, *run = text.split(" | ")
        assert "240 tokens" not in cost and "0.0 dB" not in quality and not any(run), text
    assert "0.7 dB" in quality and graph.evaluate("() => document.querySelector('.isa-thumbnail').hidden")


# Heat maps

PIXELS = """canvas => {
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    const at = (x, y) => [...data.slice(4 * (y * canvas.width + x), 4 * (y * canvas.width + x) + 3)];
    return { width: canvas.width, height: canvas.height, rows: Array.from({ length: canvas.height }, (_, y) => at(4, y)) };
}"""


COUNT_DRAWINGS = """() => {
    const { prototype } = CanvasRenderingContext2D, { drawImage } = prototype;
    prototype.drawImage = function (picture, ...rest) {
        drawImage.call(this, picture, ...rest);
        if (picture instanceof OffscreenCanvas && this.canvas.closest('.isa-maps')) window.drawings += 1;
    };
}"""
"""Of maps in the dialog."""


def is_kept(canvas) -> bool:
    return all(red > blue + 40 for red, _, blue in canvas.evaluate(PIXELS)["rows"])


def is_partly_left_out(canvas) -> bool:
    return any(blue > red + 40 for red, _, blue in canvas.evaluate(PIXELS)["rows"])


COLOURS = "async () => (await import('/extensions/liveditor_isa/isa_map.js')).COLOURS"


def near(one, other) -> bool:
    """A value is shown in whole hundredths, of which a colour has two or three."""
    return all(abs(a - b) <= 6 for a, b in zip(one, other, strict=True))


def is_of_the_maps_colours(canvas) -> bool:
    colours = {tuple(colour) for colour in canvas.page.evaluate(COLOURS)}
    return {tuple(row) for row in canvas.evaluate(PIXELS)["rows"]} <= colours


def is_grey(canvas) -> bool:
    return all(max(row) - min(row) <= 2 for row in canvas.evaluate(PIXELS)["rows"])


def pointed_at(page, x: float, y: float) -> tuple[str, list[int], list[list[int]]]:
    """The value that the dialog shows for a place of its picture, the place's colour, and the colours of the values from 0 to 255."""
    box = page.locator(".isa-picture canvas").bounding_box()
    page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
    colour = page.evaluate(
        """([x, y]) => {
            const canvas = document.querySelector('.isa-picture canvas');
            return [...canvas.getContext('2d').getImageData(x * canvas.width, y * canvas.height, 1, 1).data].slice(0, 3);
        }""",
        [x, y],
    )
    return page.locator(".isa-value").text_content(), colour, page.evaluate(COLOURS)


def record_maps(page, detail: str):
    """Set how much of heat maps is recorded, and come back when the server knows."""
    with page.expect_response("**/liveditor_isa/detail"):
        page.evaluate("detail => { app.extensionManager.setting.set('LIVEditor.HeatMaps', detail) }", detail)


def test_the_heat_map_shows_what_was_kept(graph):
    record_maps(graph, "every transformer block")
    try:
        # All of the context, then, from a step on, none but the least.
        set_widgets(graph, {"LIVEditorAttachISA": {"keep_ratio": 1}})
        queue(graph)
        thumbnail = graph.locator(".isa-thumbnail").first
        graph.wait_for_function("() => !document.querySelector('.isa-thumbnail').hidden", timeout=LONG)
        # 160 × 96: ten tokens by six, 60 a frame. What is attended exactly is drawn yellow over the frame, what is not is blue.
        wait_until(graph, lambda: is_kept(thumbnail))
        everything = thumbnail.evaluate(PIXELS)
        set_widgets(graph, {"LIVEditorAttachISA": {"keep_ratio": 0}})
        steps = [event for event in ended(graph) if event["type"] == "step"]
        graph.wait_for_function("last => window.seen.some(e => e.type === 'map' && e.at === last)", arg=STEPS - 1)
        wait_until(graph, lambda: is_partly_left_out(thumbnail))
        assert everything["width"] / everything["height"] == pytest.approx(160 / 96, rel=0.02)

        # By the keyboard, at the last of three frames; the first shown is in the middle.
        assert graph.get_by_role("button", name=thumbnail.get_attribute("title")).count() == 1
        for key in ("ArrowLeft", "ArrowRight", "ArrowRight", "ArrowRight", "Enter"):
            thumbnail.press(key)
        dialog = graph.locator("dialog.isa-maps")
        graph.wait_for_function("() => document.querySelector('.isa-maps input[data-of=call]').max === '15'", timeout=LONG)
        assert dialog.locator("[data-of=frame]").input_value() == "2"
        show = "([name, value]) => { const control = document.querySelector(`.isa-maps [data-of=${name}]`); control.value = value; control.dispatchEvent(new Event(control.type === 'range' ? 'input' : 'change')) }"
        picture = dialog.locator("canvas")
        assert dialog.locator("[data-of=layer]").input_value() == "attended"
        graph.evaluate(show, ["layer", "kept"])
        for call, holds in ((0, is_kept), (STEPS - 1, is_partly_left_out)):
            graph.evaluate(show, ["call", str(call)])
            wait_until(graph, lambda: holds(picture))  # noqa: B023  called at once
        # In the map's own colours, and down to the frame below them, which is grey.
        for opacity, drawn in (("100", is_of_the_maps_colours), ("0", is_grey)):
            graph.evaluate(show, ["opacity", opacity])
            wait_until(graph, lambda: drawn(picture))  # noqa: B023  called at once
        graph.evaluate(show, ["opacity", "100"])
        wait_until(graph, lambda: is_of_the_maps_colours(picture))
        said = {}
        for layer, call in (("kept", 0), ("kept", STEPS - 1), ("dense", STEPS - 1)):
            graph.evaluate(show, ["layer", layer])
            graph.evaluate(show, ["call", str(call)])
            wait_until(graph, lambda: layer == "dense" or (is_kept if call == 0 else is_partly_left_out)(picture))  # noqa: B023
            after_frames(graph)
            values = set()
            for x, y in product((0.05, 0.95), (0.05, 0.5, 0.95)):
                value, colour, colours = pointed_at(graph, x, y)
                assert near(colour, colours[round(255 * int(value.removesuffix(" %")) / 100)]), (layer, value)
                values.add(value)
            said[layer, call] = values
        assert said["kept", 0] == {"100 %"} and said["kept", STEPS - 1] == {"0 %"}
        assert said["dense", STEPS - 1] - {"0 %", "100 %"}, "some of the heads"
        graph.evaluate(show, ["layer", "kept"])
        graph.mouse.move(1, 1)
        graph.wait_for_function("() => document.querySelector('.isa-value').textContent === ''")
        graph.evaluate(show, ["opacity", "55"])
        # Each transformer block, and what else there is to see.
        assert graph.evaluate("() => document.querySelector('.isa-maps input[data-of=block]').max") == "4"
        pictures = set()
        graph.evaluate(COUNT_DRAWINGS)
        for layer in ("dense", "sharpness"):
            graph.evaluate(show, ["layer", layer])
            assert dialog.locator("[data-of=part] option").all_text_contents() == ["Edit", "Source"]
            for block in "124":
                graph.evaluate("() => { window.drawings = 0 }")
                graph.evaluate(show, ["block", block])
                graph.wait_for_function("() => window.drawings > 0")
                pictures.add(str(picture.evaluate(PIXELS)["rows"]))
        assert len(pictures) > 3
        assert steps[0]["density"] > steps[-1]["density"]
        graph.keyboard.press("Escape")
        dialog.wait_for(state="detached")

        # Forgotten by the server: the dialog says so, and its controls do nothing; an error would fail the test.
        graph.route("**/liveditor_isa/maps", lambda route: route.fulfill(status=404, json={"error": "gone"}))
        thumbnail.press(" ")
        graph.get_by_text("The heat maps are gone").wait_for()
        graph.evaluate(show, ["frame", "0"])
        graph.evaluate(show, ["layer", "dense"])
        after_frames(graph)  # in which nothing is drawn
    finally:
        graph.evaluate("() => app.extensionManager.setting.set('LIVEditor.HeatMaps', 'thumbnail')")


@one_way
def test_no_heat_map_where_none_is_wanted(graph):
    record_maps(graph, "off")
    try:
        queue(graph)
        assert not [event for event in ended(graph) if event["type"] == "map"]
        assert graph.evaluate("() => document.querySelector('.isa-thumbnail').hidden")
        # Nor are frames held for one.
        asked = """async ({ execution, node }) => (await (await app.api.fetchApi('/liveditor_isa/maps', { method: 'POST',
            headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ execution, node }) })).json()).grids"""
        assert graph.evaluate(asked, graph.evaluate("() => window.seen[0]")) == []
    finally:
        graph.evaluate("() => app.extensionManager.setting.set('LIVEditor.HeatMaps', 'thumbnail')")


@one_way
def test_the_panel_says_which_steps_reuse_the_context_and_what_is_kept(graph):
    set_widgets(graph, {"LIVEditorAttachISA": {"context_refresh": 2}})
    graph.wait_for_function("() => document.querySelector('.isa-cost span').textContent.includes('in reuses)')")
    queue(graph)
    steps = [event for event in ended(graph) if event["type"] == "step"]
    kinds = [step["context"] for step in steps]
    assert kinds[:2] == ["refreshed", "refreshed"] and 3 <= kinds.count("refreshed") < STEPS / 2
    # From pure noise, where the first step is, nothing is near enough to be reused.
    assert steps[0]["context_held"] == [0, 0] and all(
        step["context_held"][0] == 0 < step["context_held"][1] for step in steps[1:]
    )
    assert steps[-1]["reused_pace"] > 0 < steps[-1]["pace"]["isa"]
    shown = "() => /[\\d.]+ s where the context is reused, [\\d.]+ GB kept in main memory/.test(document.querySelector('.isa-now').textContent)"
    graph.wait_for_function(shown)


# Pages, tabs, servers


@one_way
def test_the_switch_turns_isa_off_and_on_in_mid_run(graph):
    queue(graph)
    set_widgets(graph, {"LIVEditorAttachISA": {"enabled": False}})
    graph.wait_for_function("() => window.seen.some(e => e.type === 'step' && 'switched off' in e.full)", timeout=60_000)
    set_widgets(graph, {"LIVEditorAttachISA": {"enabled": True}})
    steps = [event for event in ended(graph) if event["type"] == "step"]
    off = [step["step"] for step in steps if "density" not in step]
    assert off == list(range(off[0], off[-1] + 1)) and 3 <= off[0] and off[-1] < STEPS
    assert {"isa", "full"} <= steps[-1]["pace"].keys()


@one_way
def test_a_page_reloaded_in_mid_run_goes_on_showing_and_changing_it(graph, server):
    queue(graph, LONGER)
    graph.reload()
    graph.wait_for_function("window.app?.graph?.nodes?.length === 12 && window.app.extensionManager", timeout=60_000)
    graph.evaluate(
        "() => { window.seen = []; window.app.api.addEventListener('liveditor_isa.run', e => window.seen.push(e.detail)) }"
    )
    graph.wait_for_function("() => document.querySelector('.isa-now')?.textContent.includes('kept context')", timeout=60_000)
    set_widgets(graph, {"LIVEditorAttachISA": {"keep_ratio": 0.7}})
    last = [event for event in ended(graph) if event["type"] == "step"][-1]
    assert last["step"] == LONGER - 1 and last["values"]["keep_ratio"] == 0.7
    graph.wait_for_function(f"() => {ISA}.widgets.find(widget => widget.name === 'live_changes').value !== ''")


INSIDE = """() => {
    const [subgraph] = window.app.rootGraph.nodes.filter(node => node.subgraph);
    return subgraph.subgraph.nodes.find(node => node.type === 'LIVEditorAttachISA');
}"""


def to_subgraph(page):
    page.evaluate(f"() => {{ window.app.graph.convertToSubgraph(new Set([{ISA}])) }}")
    page.wait_for_function("() => window.app.rootGraph.nodes.some(node => node.subgraph)")
    return page.evaluate("() => window.app.rootGraph.nodes.find(node => node.subgraph).id")


def test_a_node_in_a_subgraph(graph):
    outer = to_subgraph(graph)
    queue(graph)
    assert {event["node"] for event in graph.evaluate("() => window.seen")} == {f"{outer}:3"}
    graph.evaluate(f"() => {{ ({INSIDE})().widgets.find(widget => widget.name === 'keep_ratio').value = 0.75 }}")
    steps = [event for event in ended(graph) if event["type"] == "step"]
    assert steps[0]["values"]["keep_ratio"] == 0.125 and steps[-1]["values"]["keep_ratio"] == 0.75
    graph.wait_for_function(f"() => ({INSIDE})().widgets.find(widget => widget.name === 'live_changes').value !== ''")


def test_a_slider_that_was_promoted_to_the_subgraphs_node(graph):
    to_subgraph(graph)
    graph.evaluate(
        f"""() => {{
            const inside = ({INSIDE})(), slot = inside.getSlotFromWidget(inside.widgets.find(widget => widget.name === 'keep_ratio'));
            inside.graph.addInput('keep', 'FLOAT').connect(slot, inside);
            window.host = window.app.rootGraph.nodes.find(node => node.subgraph);
            window.host.widgets.find(widget => widget.name === 'keep').value = 0.25;
        }}"""
    )
    queue(graph)
    graph.evaluate("() => { window.host.widgets.find(widget => widget.name === 'keep').value = 0.75 }")
    steps = [event for event in ended(graph) if event["type"] == "step"]
    assert steps[0]["values"]["keep_ratio"] == 0.25 and steps[-1]["values"]["keep_ratio"] == 0.75
    graph.wait_for_function(f"() => ({INSIDE})().widgets.find(widget => widget.name === 'live_changes').value !== ''")


@one_way
def test_a_subgraph_that_is_used_twice_is_not_changed_live(graph):
    to_subgraph(graph)
    graph.evaluate(
        """() => {
            const host = window.app.rootGraph.nodes.find(node => node.subgraph), copy = host.clone();
            copy.id = -1;
            window.app.rootGraph.add(copy);
        }"""
    )
    queue(graph)
    graph.evaluate(f"() => {{ ({INSIDE})().widgets.find(widget => widget.name === 'keep_ratio').value = 0.75 }}")
    assert {event["values"]["keep_ratio"] for event in ended(graph) if event["type"] == "step"} == {0.125}
    assert graph.evaluate(f"() => ({INSIDE})().widgets.find(widget => widget.name === 'live_changes').value") == ""


KEPT = """value => {
    const { activeWorkflow } = window.app.extensionManager.workflow, { changeTracker } = activeWorkflow;
    (changeTracker.captureCanvasState ?? changeTracker.checkState).call(changeTracker);
    const saved = activeWorkflow.activeState.nodes.find(node => node.type === 'LIVEditorAttachISA');
    return Object.values(saved.widgets_values).includes(value);
}"""
"""The page keeps what a workflow is like when a hand leaves it; a script has to ask for that."""


def change_a_run(page):
    """Start a run, and change it live; the page has kept the change."""
    queue(page, LONGER)
    set_widgets(page, {"LIVEditorAttachISA": {"keep_ratio": 0.75}})
    page.wait_for_function("() => window.seen.at(-1).values?.keep_ratio === 0.75", timeout=60_000)
    page.wait_for_function(KEPT, arg=0.75, timeout=LONG)


@one_way
def test_another_workflow_that_is_opened_in_mid_run_is_left_alone(graph):
    mine = graph.evaluate("() => window.app.extensionManager.workflow.activeWorkflow.path")
    change_a_run(graph)
    drop(graph, EXAMPLES / "1 First edit, without a GPU.json", "application/json")
    # Its nodes have the same numbers.
    assert graph.evaluate(f"() => String({ISA}.id)") == graph.evaluate("() => window.seen[0].node")
    set_widgets(graph, {"LIVEditorAttachISA": {"keep_ratio": 0.3}})
    events = ended(graph)
    assert [event for event in events if event["type"] == "step"][-1]["values"]["keep_ratio"] == 0.75
    after_looks(graph, 5)  # none of which may take the record for this workflow's
    assert widget(graph, "live_changes") == "" and graph.evaluate(PANEL) == ""
    go_back(graph, mine)
    graph.wait_for_function(f"() => ({PANEL})().includes('attention calls at')", timeout=LONG)
    graph.wait_for_function(f"() => {ISA}?.widgets.find(widget => widget.name === 'live_changes').value", timeout=LONG)
    end = next(event for event in events if event["type"] == "ended")
    assert widget(graph, "live_changes") == end["changes"] and widget(graph, "keep_ratio") == 0.75


def go_back(page, path: str):
    """To a workflow that is open, as its tab does."""
    page.evaluate(
        """async path => {
            const { workflow } = window.app.extensionManager;
            await window.app.loadGraphData(JSON.parse(JSON.stringify(workflow.getWorkflowByPath(path).activeState)), true, true, workflow.getWorkflowByPath(path));
        }""",
        path,
    )


@one_way
def test_the_record_of_a_run_that_ends_while_another_workflow_is_opened_is_not_lost(graph):
    """The page has noted already what the workflow is like that it leaves, and its panel still gets the record."""
    change_a_run(graph)
    graph.evaluate(
        """async () => {
            const { activeWorkflow } = window.app.extensionManager.workflow, noted = JSON.stringify(activeWorkflow.activeState);
            if (!window.seen.some(event => event.type === 'ended'))
                await new Promise(done => window.app.api.addEventListener('liveditor_isa.run', ({ detail }) => detail.type === 'ended' && done()));
            await window.app.loadGraphData(JSON.parse(noted), true, true, activeWorkflow);
        }"""
    )
    end = next(event for event in ended(graph) if event["type"] == "ended")
    changed = f"changes => {ISA}?.widgets.find(widget => widget.name === 'live_changes').value === changes"
    graph.wait_for_function(changed, arg=end["changes"], timeout=LONG)


@one_way
def test_two_tabs(graph, server, browser):
    other = open_page(browser, server, vue=False)
    drop(other, EXAMPLES / "2 LIVEditor-14B.json", "application/json")
    queue(graph)
    set_widgets(other, {"LIVEditorAttachISA": {"keep_ratio": 0.9}})
    after_looks(other, 5)  # none of which may reach the run of the first tab
    assert other.evaluate("() => document.querySelector('.isa-now').textContent") == ""
    set_widgets(graph, {"LIVEditorAttachISA": {"keep_ratio": 0.6}})
    values = [event["values"]["keep_ratio"] for event in ended(graph) if event["type"] == "step"]
    assert set(values) == {0.125, 0.6} and widget(graph, "keep_ratio") == 0.6 and widget(other, "keep_ratio") == 0.9
    assert widget(graph, "live_changes") and widget(other, "live_changes") == ""
    other.close()


@pytest.mark.long
def test_a_server_that_is_restarted_in_mid_run(browser, server_models, sample_video, tmp_path):
    """The page finds the new one: no run is going on there, and the next one is told of as ever."""
    with ComfyServer(tmp_path, server_models) as first:
        first.add_input(sample_video)
        opened = open_page(browser, first, vue=False)
        load_example(opened)
        queue(opened)
        port = first.port
    set_widgets(opened, {"LIVEditorAttachISA": {"exact_ratio": 0.5}})
    opened.wait_for_function("() => document.querySelector('.isa-cost span').textContent === 'The server does not answer.'")
    after_looks(opened, 5)  # while there is no server
    with ComfyServer(tmp_path, server_models, port=port):
        opened.wait_for_function("() => !document.querySelector('.isa-now').textContent.includes('step ')", timeout=60_000)
        opened.wait_for_function("() => document.querySelector('.isa-cost span').textContent.includes('360 tokens')")
        queue(opened)
        set_widgets(opened, {"LIVEditorAttachISA": {"keep_ratio": 0.6}})
        steps = [event for event in ended(opened) if event["type"] == "step"]
        assert steps[-1]["values"]["keep_ratio"] == 0.6
        assert [event for event in opened.evaluate("() => window.seen") if event["type"] == "map"]
        opened.close()


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


@one_way
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
