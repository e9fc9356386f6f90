"""Settings that change while a run is going: what takes effect when, the record that repeats it, and the page's routes."""

import asyncio
import json
import threading
from types import SimpleNamespace

import pytest
import torch
from examples import EXAMPLES, SMALL
from hypothesis import given
from hypothesis import strategies as st
from in_context import STEPS, sample
from liveditor_isa.comfyui.attach import Watcher, attach_isa
from liveditor_isa.comfyui.scene import Part
from liveditor_isa.isa_core import ISAConfig
from liveditor_isa.nodes import routes
from liveditor_isa.nodes.attach import AttachISA
from liveditor_isa.nodes.live import LIVE_CHANGES, LIVE_CHANGES_AT, ROUTING_AT, RUNS, Run, RunMaps, with_live_changes
from liveditor_isa.nodes.routes import LARGEST_BODY
from liveditor_isa.runtime.heatmap import OFF
from liveditor_isa.runtime.live import LiveSettings, Settings, read_changes, write_changes
from liveditor_isa.runtime.read_back import ReadBack
from liveditor_isa.runtime.schedule import Schedule
from routes_client import ask
from workflow_api import Workflow

PAPER = Settings(ISAConfig())

ratios = st.floats(0, 1)
some_values = st.fixed_dictionaries(
    {},
    optional={
        "enabled": st.booleans(),
        "keep_ratio": ratios,
        "dense_query_ratio": ratios,
        "exact_ratio": ratios,
        "sharpness": st.sampled_from(["variance", "top_mass"]),
        "context_tail": st.sampled_from(["drop", "taylor"]),
    },
)


def steps_of(live: LiveSettings, count: int, told: dict[int, dict] = {}) -> list[Settings]:  # noqa: B006
    live.begin()
    seen = []
    for step in range(count):
        if step in told:
            assert live.tell(told[step]) == step
        seen.append(live.next())
    return seen


# Settings


@given(st.dictionaries(st.integers(0, 9), some_values), some_values)
def test_the_record_repeats_the_run_whatever_is_set_on_the_node(told, final):
    live = LiveSettings(PAPER)
    seen = steps_of(live, 10, told)
    text = write_changes(live.record())
    assert (text == "") == all(settings == PAPER for settings in seen)
    again = LiveSettings(PAPER.changed(final) if text else PAPER, read_changes(text))
    assert steps_of(again, 10) == seen
    assert write_changes(again.record()) == text or not text


def test_a_change_during_a_repeated_run_drops_what_was_recorded_for_later():
    live = LiveSettings(PAPER, {"": [(0, {"keep_ratio": 0.3}), (2, {"keep_ratio": 0.4}), (5, {"keep_ratio": 0.5})]})
    seen = steps_of(live, 8, {4: {"exact_ratio": 0.2}})
    assert [settings.config.keep_ratio for settings in seen] == [0.3, 0.3, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4]
    assert seen[4].config.exact_ratio == 0.2


def test_switching_the_way_to_route_is_recorded_and_repeats():
    by_threshold, by_ratio = {"sharpness_threshold": 0.01}, {"dense_query_ratio": 0.25}
    for told in ({0: by_threshold}, {5: by_threshold}, {0: by_threshold, 3: by_ratio}):
        live = LiveSettings(PAPER)
        seen, text = steps_of(live, 8, told), write_changes(live.record())
        for _ in range(3):
            live = LiveSettings(live.current, read_changes(text))
            assert [each.values() for each in steps_of(live, 8)] == [each.values() for each in seen]
            assert write_changes(live.record()) == text
    live = LiveSettings(PAPER)
    live.begin()
    live.tell(by_threshold)
    live.tell(by_ratio)
    assert live.next().config == ISAConfig(dense_query_ratio=0.25)


def test_a_repeated_run_that_is_stopped_keeps_its_record():
    record = {"": [(0, PAPER.values()), (3, {"keep_ratio": 0.5}), (10, {"enabled": False})]}
    for steps in (0, 1, 5, 12):
        live = LiveSettings(PAPER, record)
        steps_of(live, steps)
        assert live.record() == record


def two_samplers(live: LiveSettings, ran=("a", "b"), told: dict[tuple[str, int], dict] = {}, execution="x") -> dict:  # noqa: B006
    """{sampler: its settings}, four evaluations each; those that did not run were in the server's cache."""
    seen = {}
    for sampler in ran:
        live.begin(execution, sampler)
        seen[sampler] = []
        for at in range(4):
            if (sampler, at) in told:
                live.tell(told[sampler, at])
            seen[sampler].append(live.next())
    return seen


@given(st.dictionaries(st.tuples(st.sampled_from("ab"), st.integers(0, 3)), some_values), some_values)
def test_either_of_two_samplers_repeats_its_part_while_the_other_one_is_cached(told, final):
    live = LiveSettings(PAPER)
    seen, text = two_samplers(live, told=told), write_changes(live.record())
    first = PAPER.changed(final) if text else PAPER
    for ran in ("ab", "a", "b"):
        again = LiveSettings(first, read_changes(text))
        assert two_samplers(again, ran) == {sampler: seen[sampler] for sampler in ran}
        assert write_changes(again.record()) == text


def test_samplers_of_one_execution_go_on_with_what_was_told():
    live = LiveSettings(PAPER, {"b": [(0, {"keep_ratio": 0.3})]})
    seen = two_samplers(live, told={("a", 3): {"keep_ratio": 0.7}})
    assert [settings.config.keep_ratio for settings in seen["b"]] == [0.7] * 4 and live.told_any
    again = two_samplers(live, execution="y")
    assert again["a"] == [PAPER] * 4 and again["b"][0].config.keep_ratio == 0.3 and not live.told_any
    # Told after the last evaluation of one sampler, it is the next one's.
    live.begin("z", "a")
    live.next()
    live.tell({"keep_ratio": 0.9})
    live.begin("z", "b")
    assert live.next().config.keep_ratio == 0.9


def test_a_sampler_that_a_record_does_not_name_says_so():
    live = LiveSettings(PAPER, {"5": [(0, {"keep_ratio": 0.3})]})
    live.begin("x", "6")
    assert live.next() == PAPER and live.unmatched == ["5"]
    live.begin("x", "5")
    assert live.unmatched == [] and live.next().config.keep_ratio == 0.3


def test_routing_by_ratio_and_by_threshold_replace_each_other():
    by_threshold = PAPER.changed({"sharpness_threshold": 0.01})
    assert by_threshold.values()["sharpness_threshold"] == 0.01 and "dense_query_ratio" not in by_threshold.values()
    assert by_threshold.changed({"dense_query_ratio": 0.25}).config == ISAConfig(dense_query_ratio=0.25)


def test_a_way_to_route_takes_the_others_place():
    budget = PAPER.changed({"error_threshold": 0, "exact_ratio": 0.28})
    assert budget.config == ISAConfig(exact_ratio=0.28, policy="error_aware")
    assert budget.values()["error_threshold"] == 0 and "dense_query_ratio" not in budget.values()
    assert PAPER.changed(budget.values()) == budget, "the page sends what it was told"
    above = budget.changed({"error_threshold": 0.02})
    assert above.config.error_threshold == 0.02 and above.values()["error_threshold"] == 0.02
    for way, config in (({"dense_query_ratio": 0.25}, ISAConfig(dense_query_ratio=0.25)), ({"sharpness_threshold": 0.1}, None)):
        other = above.changed({**way, "exact_ratio": 0.0625})
        assert other.config == (config or ISAConfig(sharpness_threshold=0.1)) and way.items() <= other.values().items()
    segments = above.changed({"segment_top_k": True, "exact_ratio": 0.28})
    assert segments.config == ISAConfig(exact_ratio=0.28, policy="segment_top_k")
    assert PAPER.changed(segments.values()) == segments and segments.changed(PAPER.values()) == PAPER


@pytest.mark.parametrize(
    "values, sentence",
    [
        ({"keep_ratio": 1.5}, "keep_ratio must be a number from 0 to 1"),
        ({"keep_ratio": float("nan")}, "keep_ratio must be a number"),
        ({"keep_ratio": True}, "keep_ratio must be a number"),
        ({"enabled": 1}, "enabled must be true or false"),
        ({"block_size": 32}, "'block_size' cannot change during a run"),
        ({"sharpness": ["variance"]}, "sharpness must be one of"),
        ({"dense_query_ratio": 0.5, "sharpness_threshold": 0.1}, "exclude each other"),
        ({"dense_query_ratio": 0.5, "error_threshold": 0.0}, "exclude each other"),
        ({"error_threshold": -0.1}, "error_threshold must be a number"),
        ({"error_threshold": False}, "error_threshold must be a number"),
        ({"segment_top_k": 1}, "segment_top_k must be true"),
        ({"segment_top_k": True, "error_threshold": 0.0}, "exclude each other"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(values, sentence):
    live = LiveSettings(PAPER)
    live.begin()
    with pytest.raises(ValueError, match=sentence):
        live.tell(values)
    assert live.next() == PAPER and live.record() == {}
    with pytest.raises(ValueError, match=sentence):
        LiveSettings(PAPER, {"5": [(2, values)]})


@given(
    st.text(max_size=30)
    | st.recursive(
        st.integers() | st.text(max_size=3),
        lambda deeper: st.lists(deeper) | st.dictionaries(st.text(max_size=2), deeper),
        max_leaves=6,
    ).map(json.dumps)
)
def test_any_record_is_read_or_refused(text):
    try:
        LiveSettings(PAPER, read_changes(text))
    except ValueError as error:
        assert str(error)


# A real sampling run


class Teller(Watcher):
    """Changes a run as the page does: between two steps, from another thread."""

    detail = OFF

    def __init__(self, told):
        self.told, self.rows, self.steps, self.maps = told, [], None, []

    def started(self, live, steps, parts):
        self.live, self.steps, self.parts = live, steps, parts
        return self.detail

    def mapped(self, at, blocks, maps):
        self.maps.append((at, blocks, maps.tensor()))

    def stepped(self, row):
        self.rows.append(row)

    def before(self, step):
        if step in self.told:
            other = threading.Thread(target=lambda: self.live.tell(self.told[step]))
            other.start()
            other.join()


def run(model, live, told={}, **options):  # noqa: B006
    teller, lines = Teller(told), []
    attached = attach_isa(model, live, Schedule(), "torch", lines.append, teller)
    override = attached.model_options["transformer_options"]["optimized_attention_override"]
    around = override.live.next
    override.live.next = lambda: (teller.before(override.live.at), around())[1]
    return sample(attached, **options), teller, lines[0]


@pytest.mark.slow
def test_a_change_takes_effect_at_the_next_step_and_the_record_repeats_it_bit_by_bit(liveditor):
    told = {2: {"keep_ratio": 1.0, "dense_query_ratio": 1.0}, 4: {"enabled": False}}
    live = LiveSettings(PAPER)
    changed, teller, summary = run(liveditor, live, told)
    densities = [row.get("density") for row in teller.rows]
    assert teller.steps == STEPS == len(densities)
    assert max(densities[:2]) < 0.6 and densities[2] == densities[3] == 1.0 and densities[4] is None
    assert teller.rows[4]["full"] and "switched off" in teller.rows[4]["full"]
    assert "From model call 3: keep_ratio 1, dense_query_ratio 1" in summary and "From model call 5: enabled False" in summary

    final = LiveSettings(live.current, read_changes(write_changes(live.record())))
    again, _, _ = run(liveditor, final)
    assert torch.equal(changed, again)
    plain, _, _ = run(liveditor, LiveSettings(PAPER))
    assert not torch.equal(changed, plain)


def test_what_each_step_reports(liveditor):
    _, teller, _ = run(liveditor, LiveSettings(PAPER))
    row = teller.rows[-1]
    assert [each["step"] for each in teller.rows] == list(range(STEPS))
    assert row["values"] == PAPER.values() and row["tokens"] == (288, 288) and row["backend"][0] == "torch"
    assert 0 < row["density"] <= row["flop_ratio"] < 1 and 0.4 < row["dense"] <= 0.6
    assert row["seconds"] > 0 and row["pace"]["isa"] > 0
    # 288 context tokens are five blocks.
    assert row["kept"] == 0.2


def test_a_run_shows_no_pace_of_another(liveditor):
    """The one before it ran in full, so it has a pace that is not this one's."""
    _, full, _ = run(liveditor, LiveSettings(Settings(PAPER.config, enabled=False)))
    assert full.rows[-1]["pace"].keys() == {"full"}
    _, isa, _ = run(liveditor, LiveSettings(PAPER))
    assert all(row["pace"].keys() == {"isa"} for row in isa.rows)


def test_numbers_read_back_are_on_the_cpu_whatever_the_device():
    class Elsewhere:
        """A tensor on a device that is not CUDA's, such as mps or xpu."""

        is_cuda = False

        def cpu(self):
            return torch.ones(2)

    assert torch.equal(ReadBack(Elsewhere()).tensor(), torch.ones(2))


@pytest.mark.slow
def test_a_sampler_that_evaluates_the_model_twice_a_step(liveditor):
    live = LiveSettings(PAPER)
    _, teller, _ = run(liveditor, live, {5: {"keep_ratio": 1.0}}, sampler="heun")
    assert [row["at"] for row in teller.rows] == list(range(2 * STEPS - 1)) and teller.steps == STEPS
    shown = [row["step"] for row in teller.rows]
    assert shown == sorted(shown) and shown[0] == 0 and shown[-1] == STEPS - 1
    assert live.happened == [(5, {"keep_ratio": 1.0})]


def test_a_run_that_fails_ends_for_its_watcher(liveditor):
    class Stopper(Watcher):
        rows, over = 0, False

        def stepped(self, row):
            self.rows += 1
            if self.rows == 3:
                raise RuntimeError("stopped")

        def ended(self, live):
            self.over = True

    stopper = Stopper()
    with pytest.raises(RuntimeError, match="stopped"):
        sample(attach_isa(liveditor, LiveSettings(PAPER), Schedule(), "torch", print, stopper))
    assert stopper.over


# The video's tags


def test_the_record_stands_where_the_page_saves_it():
    """By the order of the node's inputs: those of a routing come behind its name, one each but for one way."""
    inputs = AttachISA.define_schema().inputs
    before = inputs[: next(at for at, entry in enumerate(inputs) if entry.id == LIVE_CHANGES)]
    dynamic = {
        entry.id: entry.options
        for entry in before
        if any(hasattr(each, "inputs") for each in getattr(entry, "options", None) or ())
    }
    assert {len(option.inputs) for option in dynamic["routing"] if option.key != "segment_top_k"} == {1} and len(dynamic) == 1
    assert [option.inputs for option in dynamic["routing"] if option.key == "segment_top_k"] == [[]]
    assert before[0].id == "model" and before[1 + ROUTING_AT].id == "routing"
    assert len(before) - 1 + 1 == LIVE_CHANGES_AT


def test_the_videos_workflow_repeats_the_changed_run(monkeypatch):
    for node, changes in {"3": "[[0, {}]]", "12:7": "[[1, {}]]", "99": "[[2, {}]]", "4": ""}.items():
        monkeypatch.setitem(RUNS, ("one", node), Run(None, None, None, RunMaps([]), changes=changes))
    slots, values = [{"name": "model"}], [*range(LIVE_CHANGES_AT), "", 0.1, "int8"]
    workflow = {
        "nodes": [{"id": 3, "type": "x", "inputs": slots, "widgets_values": values}, {"id": 12, "type": "uuid"}],
        "definitions": {
            "subgraphs": [{"id": "uuid", "nodes": [{"id": 7, "type": "x", "inputs": slots, "widgets_values": values[:-2]}]}]
        },
    }
    tags = {"prompt": {"3": {"inputs": {}}, "12:7": {"inputs": {}}, "4": {"inputs": {}}}, "workflow": workflow}
    before = json.dumps(tags)
    made = with_live_changes(tags, "one")
    assert json.dumps(tags) == before, "other nodes of the execution hold the same objects"
    assert made["prompt"] == {
        "3": {"inputs": {"live_changes": "[[0, {}]]"}}, "12:7": {"inputs": {"live_changes": "[[1, {}]]"}}, "4": {"inputs": {}},
    }  # fmt: skip
    assert made["workflow"]["nodes"][0]["widgets_values"] == [*range(LIVE_CHANGES_AT), "[[0, {}]]", 0.1, "int8"]
    inner = made["workflow"]["definitions"]["subgraphs"][0]["nodes"][0]
    assert inner["widgets_values"] == [*range(LIVE_CHANGES_AT), "[[1, {}]]"], "of a workflow from before there were more"
    workflow["nodes"][0]["widgets_values"] = [True, 1, "segment_top_k", *range(LIVE_CHANGES_AT - 4), "", 0.1]
    made = with_live_changes(tags, "one")["workflow"]["nodes"][0]["widgets_values"]
    assert made == [True, 1, "segment_top_k", *range(LIVE_CHANGES_AT - 4), "[[0, {}]]", 0.1]
    assert with_live_changes(tags, "another") is tags
    assert with_live_changes({}, "one") == {}


# The routes


GOOD = {"execution": "none", "node": "3", "values": {"keep_ratio": 0.5}}


@pytest.mark.parametrize(
    "body, raw, headers, status",
    [
        (GOOD, None, {}, 404),
        ({**GOOD, "values": [1]}, None, {}, 400),
        ({**GOOD, "node": 3}, None, {}, 400),
        ({}, None, {}, 400),
        ([], None, {}, 400),
        (None, b"{", {}, 400),
        (None, b"[" * 4000, {}, 400),
        (None, b"\xff\xfe", {}, 400),
        (None, b" " * (LARGEST_BODY + 1), {}, 413),
        (GOOD, None, {"Content-Type": "text/plain"}, 415),
        (GOOD, None, {"Origin": "http://elsewhere.example"}, 403),
        (GOOD, None, {"Sec-Fetch-Site": "cross-site"}, 403),
        (GOOD, None, {"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_bad_requests_get_a_status_and_a_sentence(server, body, raw, headers, status):
    found, answer = ask(server, "live", body, headers, raw)
    assert found == status
    if isinstance(answer, dict):
        assert list(answer) == ["error"] and "Traceback" not in answer["error"] and len(answer["error"]) < 300


def test_the_estimate_is_what_a_run_measures(server, liveditor):
    _, teller, _ = run(liveditor, LiveSettings(PAPER))
    status, found = ask(server, "estimate", {"values": PAPER.values(), "tokens": [288, 288]})
    assert status == 200 and found["flop_ratio"] == pytest.approx(teller.rows[0]["flop_ratio"], rel=0.1)
    assert ask(server, "estimate", {"values": {"enabled": False}, "tokens": [64, 64]}) == (200, {"density": 1, "flop_ratio": 1})
    for tokens in ([], [0, 1], [1.5], "3", [10**9, 1], [True, 64]):
        assert ask(server, "estimate", {"values": {}, "tokens": tokens})[0] == 400
    with_text = ask(server, "estimate", {"values": PAPER.values(), "tokens": [288, 288], "exact": 64})[1]
    assert with_text["flop_ratio"] > found["flop_ratio"]
    for exact in (-1, 1.5, "3", True, 10**9):
        assert ask(server, "estimate", {"values": {}, "tokens": [64, 64], "exact": exact})[0] == 400
    status, answer = ask(server, "estimate", {"values": {"keep_ratio": 7}, "tokens": [64, 64]})
    assert status == 400 and "keep_ratio must be a number from 0 to 1; got 7" in answer["error"]


def test_frames_are_encoded_beside_the_servers_own_thread(monkeypatch):
    threads = []
    monkeypatch.setattr(routes, "_sheet", lambda frames: threads.append(threading.current_thread()) or b"")
    part = Part((1, 1, 1), torch.zeros(1, 8, 8, 3, dtype=torch.uint8))
    monkeypatch.setitem(RUNS, ("one", "3"), Run(None, None, None, RunMaps([part])))
    request = SimpleNamespace(query={"execution": "one", "node": "3", "part": "0"}, headers={})
    assert asyncio.run(routes.frames(request)).status == 200
    assert len(threads) == 1 and threads[0] is not threading.main_thread()


def test_a_recorded_run_through_the_server(server, info):
    saved = json.loads((EXAMPLES / "2 LIVEditor-14B.json").read_text(encoding="utf-8"))
    sampler = next(str(node["id"]) for node in saved["nodes"] if node["type"] == "KSampler")
    changes = json.dumps({sampler: [[0, {"keep_ratio": 0.5}], [1, {"enabled": False}]]})
    attach = {**SMALL["LIVEditorAttachISA"], "live_changes": changes}
    run = server.run(Workflow(saved, info).prompt({**SMALL, "LIVEditorAttachISA": attach}), saved)
    assert run.error is None, run.error
    assert "From model call 2: enabled False" in server.log()
    bad = {**attach, "live_changes": "nonsense"}
    run = server.run(Workflow(saved, info).prompt({**SMALL, "LIVEditorAttachISA": bad}), saved)
    assert "live_changes holds lists of evaluations and values" in run.error
