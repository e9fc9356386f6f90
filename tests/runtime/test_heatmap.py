"""Heat maps: what is recorded of a sampling run, over which frames, how it is encoded, and what the routes give away."""

import base64
import http.client
import json
from io import BytesIO
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
import torch
from comfy.latent_formats import Wan21
from examples import EXAMPLES, SMALL
from hypothesis import given, settings
from hypothesis import strategies as st
from in_context import BLOCKS, STEPS, latent, sample
from liveditor_isa.comfyui.attach import Watcher, attach_isa
from liveditor_isa.comfyui.scene import FRAMES, scene, shown_frames
from liveditor_isa.isa_core import ISAConfig, TokenLayout, in_context_sparse_attention
from liveditor_isa.isa_core.layout import block_table
from liveditor_isa.nodes.live import MOST_MAP_BYTES, RunMaps
from liveditor_isa.runtime.heatmap import EVERY_BLOCK, HEADS, MEAN, OFF, THUMBNAIL, EncodedMap, HeatMaps, encode
from liveditor_isa.runtime.live import LiveSettings, Settings
from liveditor_isa.runtime.schedule import Schedule
from PIL import Image
from routes_client import ask
from workflow_api import Workflow


def stats_of(layout: TokenLayout, heads: int, seed: int = 0, config=ISAConfig(keep_ratio=0.4)):
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(2, layout.total, heads, 8, generator=generator) for _ in range(3))
    return in_context_sparse_attention(
        q, k, v, layout=layout, config=config, backend="torch", return_stats=True, count_attended=True
    )[1]


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 300), st.lists(st.integers(1, 300), min_size=1, max_size=3), st.sampled_from([1, 3, HEADS, 20]))
def test_a_map_counts_heads(target, context, heads):
    layout = TokenLayout(target, tuple(context))
    stats = stats_of(layout, heads)
    maps = HeatMaps(EVERY_BLOCK)
    maps.add(stats, 0, 1)
    keys, back = maps.take()
    every = max(1, heads // HEADS)
    count = block_table(layout, 64).count
    lists = stats.kept_context[:, ::every].reshape(-1, stats.kept_context.shape[2])
    kept = torch.stack([(lists == block).any(1).float().mean() for block in range(count)])
    assert keys == [MEAN, 0] and back.tensor().shape == (2, 4, count)
    for found in back.tensor():
        torch.testing.assert_close(found[0], kept)
        torch.testing.assert_close(found[1], stats.dense_queries[:, ::every].float().mean((0, 1)))
        torch.testing.assert_close(found[2], stats.sharpness[:, ::every].mean((0, 1)))
        torch.testing.assert_close(found[3], stats.attended[:, ::every].mean((0, 1)))
    assert not found[0, : block_table(layout, 64).target_blocks].any(), "the target is no context"
    assert maps.take() is None


def test_what_is_sampled():
    stats = stats_of(TokenLayout(100, (100,)), 2)
    for detail, keys in ((OFF, None), (THUMBNAIL, [MEAN]), (EVERY_BLOCK, [MEAN, *range(40)])):
        maps = HeatMaps(detail)
        for block in range(40):
            for _ in ("positive", "negative"):
                maps.add(stats, block, 40)
        taken = maps.take()
        assert (taken and taken[0]) == keys


def test_bytes():
    maps = torch.tensor([[0.0, 0.5, 1.0], [1.0, 0.0, 0.25], [1e-6, 1e-4, 1e-2], [0.0, 0.2, 0.4]])
    found = encode(maps)
    assert list(found.kept) == [0, 128, 255] and list(found.dense) == [255, 0, 64]
    assert list(found.sharpness) == [0, 128, 255] and found.sharpness_range == pytest.approx((-6, -2))
    assert list(found.attended) == [0, 128, 255] and found.most_attended == pytest.approx(0.4)
    even = encode(torch.zeros(4, 4))
    assert list(even.sharpness) == [0] * 4 and even.sharpness_range == pytest.approx((-12, -12))


def test_a_run_holds_no_more_than_its_share():
    maps, row = RunMaps([]), bytes(MOST_MAP_BYTES // 12)
    for at in range(4):
        for block in (MEAN, 0):
            maps.add(at, block, EncodedMap(row, row, row, row, (0, 0), 1))
    assert sorted(maps.found) == [(0, MEAN), (0, 0), (1, MEAN), (2, MEAN), (3, MEAN)]


# A real sampling run


class Looker(Watcher):
    def __init__(self, detail: str):
        self.detail, self.maps = detail, {}

    def started(self, live, steps, parts):
        self.parts = parts
        return self.detail

    def mapped(self, at, blocks, maps):
        self.maps[at] = dict(zip(blocks, maps.tensor()))


def looked(model, detail: str, **options):
    looker = Looker(detail)
    attached = attach_isa(model, LiveSettings(Settings(ISAConfig())), Schedule(), "torch", lambda line: None, looker)
    return sample(attached, **options), looker


@pytest.mark.slow
def test_a_run_gives_a_map_at_every_model_call_and_is_the_same_without(liveditor):
    contexts = [latent(seed=1), latent(frames=1, height=10, width=8, seed=2)]
    plain, looker = looked(liveditor, OFF, contexts=contexts)
    assert looker.maps == {}
    mapped, looker = looked(liveditor, EVERY_BLOCK, contexts=contexts)
    assert torch.equal(plain, mapped)
    assert [part.grid for part in looker.parts] == [(3, 8, 12), (3, 8, 12), (1, 5, 4)]
    assert sorted(looker.maps) == list(range(STEPS)) and sorted(looker.maps[0]) == [MEAN, *range(BLOCKS)]
    # 288 + 288 + 20 tokens in blocks of 64; every head keeps the ragged ends of both contexts, and no more at the paper's ratio.
    kept, dense, _, attended = looker.maps[0][1]
    assert len(kept) == 11 and float(kept.sum()) == pytest.approx(2) and 0.4 < float(dense.mean()) <= 0.6


# What the frames are


def guider(network=SimpleNamespace(patch_size=(1, 2, 2)), **cond):
    model = SimpleNamespace(diffusion_model=network, latent_format=Wan21())
    return SimpleNamespace(model_patcher=SimpleNamespace(model=model), conds={"positive": [{}, cond], "negative": []})


def test_frames_come_from_in_context_references_or_else_from_the_latents():
    contexts = [latent(frames=3), latent(frames=1, height=9, width=7)]
    shown = [torch.zeros(3, 4, 6, 3, dtype=torch.uint8), torch.zeros(1, 4, 6, 3, dtype=torch.uint8)]
    target, source, reference = scene(guider(context_latents=contexts, **{FRAMES: shown}), latent(frames=3))
    assert source.frames is shown[0] is target.frames and reference.frames is shown[1]
    assert (target.grid, source.tokens, reference.grid) == ((3, 8, 12), 288, (1, 5, 4))
    target, source, _ = scene(guider(context_latents=contexts), latent(frames=2))
    assert source.frames.shape == (3, 16, 24, 3) and source.frames.dtype == torch.uint8
    assert target.frames is None, "the edit has another shape"
    assert scene(guider(), latent()) == [] == scene(guider(context_latents=contexts), torch.zeros(1, 4, 8, 8))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 3), st.integers(16, 400), st.integers(16, 400))
def test_one_small_frame_for_each_latent_frame(groups, height, width):
    frames = torch.zeros(4 * groups + 1, height, width, 3)
    frames[::4] = 1
    shown = shown_frames(frames)
    assert len(shown) == groups + 1 and shown.shape[1] == min(height, 160) and (shown == 255).all()
    assert shown.shape[2] / shown.shape[1] == pytest.approx(width / height, rel=0.05, abs=1 / shown.shape[1])


# The routes


@pytest.fixture(scope="module")
def execution(server, info) -> dict:
    """A run that the server has maps of, every block's."""
    assert ask(server, "detail", {"client": server.client, "maps": EVERY_BLOCK})[0] == 200
    saved = json.loads((EXAMPLES / "2 LIVEditor-14B.json").read_text(encoding="utf-8"))
    prompt = Workflow(saved, info).prompt({**SMALL, "KSampler": {"steps": 2, "seed": 77}})
    run = server.run(prompt, saved)
    assert run.error is None, run.error
    node = next(node for node, entry in prompt.items() if entry["class_type"] == "LIVEditorAttachISA")
    ask(server, "detail", {"client": server.client, "maps": THUMBNAIL})
    return {"workflow": saved["id"], "node": node}


def told(server, execution) -> list[dict]:
    status, answer = ask(server, "events", {"workflow": execution["workflow"], "client": server.client})
    assert status == 200
    return [event for event in answer["events"] if event["node"] == execution["node"]]


def test_a_page_that_was_reloaded_is_told_again(server, execution):
    events = told(server, execution)
    assert [event["type"] for event in events] == ["started", "step", "map", "ended", "report"]
    assert events[-1]["sentences"].startswith("ISA: ")
    assert events[1]["step"] == 1 and events[0]["grids"] == [[3, 6, 10], [3, 6, 10]]
    assert ask(server, "events", {"workflow": execution["workflow"], "client": "other"}) == (200, {"events": []})
    assert ask(server, "events", {"workflow": "other", "client": server.client}) == (200, {"events": []})
    without = {"workflow": execution["workflow"], "client": server.client, "without": [events[0]["execution"]]}
    assert events[0]["execution"] not in {event["execution"] for event in ask(server, "events", without)[1]["events"]}


def test_maps_and_frames_of_a_run(server, execution):
    run = {name: told(server, execution)[0][name] for name in ("execution", "node")}
    status, listed = ask(server, "maps", run)
    blocks = sorted({block for _, block in listed["found"]})
    assert status == 200 and blocks[0] == MEAN and len(blocks) > 2 and listed["grids"] == [[3, 6, 10], [3, 6, 10]]
    status, found = ask(server, "map", {**run, "at": 1, "block": blocks[1]})
    kept = base64.b64decode(found["kept"])
    assert status == 200 and len(kept) == 6 and not any(kept[:3]) and any(kept[3:])

    url = urlsplit(server.url)
    for part, wanted in ((0, 200), (1, 200), (2, 404), ("x", 404), ("", 404), ("9" * 4000, 404)):
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=20)
        connection.request("GET", f"/liveditor_isa/frames?execution={run['execution']}&node={run['node']}&part={part}")
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status == wanted
        if wanted == 200:
            # Three frames of 160 × 96 in two rows of two.
            assert Image.open(BytesIO(content)).size == (320, 192)
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=20)
    address = f"/liveditor_isa/frames?execution={run['execution']}&node={run['node']}&part=1"
    connection.request("GET", address, headers={"Sec-Fetch-Site": "cross-site"})
    assert connection.getresponse().status == 403


@pytest.mark.parametrize(
    "path, body, status",
    [
        ("maps", {"execution": "none", "node": "3"}, 404),
        ("maps", {"execution": 3}, 400),
        ("map", {"execution": "none", "node": "3", "at": 0, "block": 0}, 404),
        ("events", {"workflow": 3, "client": "x"}, 400),
        ("events", {}, 400),
        ("events", {"workflow": "x", "client": "x", "without": "x"}, 400),
        ("detail", {"client": "x", "maps": "everything"}, 400),
        ("detail", {"client": "x" * 200, "maps": OFF}, 400),
        ("detail", {"client": None, "maps": OFF}, 400),
    ],
)
def test_bad_requests_about_maps(server, path, body, status):
    found, answer = ask(server, path, body)
    assert found == status and list(answer) == ["error"]


def test_bad_requests_about_a_known_run(server, execution):
    run = {name: told(server, execution)[0][name] for name in ("execution", "node")}
    assert ask(server, "map", {**run, "at": 99, "block": 0})[0] == 404
    assert ask(server, "map", {**run, "at": True, "block": 0})[0] == 400
    assert ask(server, "map", {**run, "at": "1", "block": [0]})[0] == 400
    assert ask(server, "live", {**run, "values": {"keep_ratio": 0.5}}) == (404, {"error": "This sampling run is over."})
