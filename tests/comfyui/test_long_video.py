"""Long videos by core's own context windows: each window sees its part of the source, and references whole."""

import comfy.conds
import comfy.model_management
import comfy.patcher_extension
import comfy.sample
import comfy.sd
import pytest
import torch
from comfy.context_windows import IndexListContextWindow
from comfy_extras.nodes_context_windows import WanContextWindowsManualNode
from in_context import TEXT
from liveditor_isa.benchmarks.clips import long_video
from liveditor_isa.comfyui.attach import attach_isa
from liveditor_isa.isa_core import ISAConfig
from liveditor_isa.runtime.live import LiveSettings, Settings
from liveditor_isa.runtime.schedule import Schedule

STEPS, BLOCKS = 1, 4
WINDOW, OVERLAP = 17, 8
"""Frames: 5 latent frames, 2 of them shared with the next window."""


def latent(frames, height=8, width=12, seed=0):
    return torch.randn(1, 16, frames, height, width, generator=torch.Generator().manual_seed(seed))


def windowed(model, schedule="standard_static"):
    """As the node Wan Context Windows gives it."""
    return WanContextWindowsManualNode.execute(model, WINDOW, OVERLAP, schedule, 1, False, "pyramid", False).result[0]


def attached(model, config=ISAConfig()):
    shown = []
    return attach_isa(model, LiveSettings(Settings(config)), Schedule(), "torch", shown.append), shown


def sample(model, contexts, frames):
    noise = latent(frames, seed=9)
    positive, negative = ([[text, {"context_latents": contexts}]] for text in (TEXT, TEXT * 0))
    return comfy.sample.sample(model, noise, STEPS, 2.5, "euler", "simple", positive, negative, noise * 0, seed=1)


class Calls:
    """What the network was called with, call by call: (latent frames of the window, contexts)."""

    def __init__(self, model):
        self.model, self.seen = model.clone(), []
        kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
        self.model.add_wrapper_with_key(kind, "test", self.look)

    def look(self, executor, x, *args, **kwargs):
        window = next(each["context_window"] for each in args if isinstance(each, dict))
        anchor = getattr(window, "causal_anchor_index", None)
        self.seen.append((([] if anchor is None else [anchor]) + window.index_list, x.shape[2], kwargs["context_latents"]))
        return executor(x, *args, **kwargs)


def test_each_window_sees_its_part_of_the_source_and_references_whole(in_context_model):
    source, image, short = latent(12, seed=1), latent(1, 6, 4, seed=2), latent(3, seed=3)
    calls = Calls(attached(windowed(in_context_model))[0])
    sample(calls.model, [source, image, short], 12)
    process = in_context_model.model.process_latent_in
    windows = {tuple(frames) for frames, _, _ in calls.seen}
    assert len(windows) > 2 and set().union(*windows) == set(range(12))
    for frames, length, (part, *others) in calls.seen:
        assert length == len(frames) <= 6
        torch.testing.assert_close(part[:1].float(), process(source)[:, :, frames])
        for seen, whole in zip(others, (image, short), strict=True):
            torch.testing.assert_close(seen[:1].float(), process(whole))


@pytest.mark.slow
def test_isa_at_ratios_of_one_is_full_attention_in_every_window_whichever_node_comes_first(in_context_model):
    contexts = [latent(12, seed=1), latent(1, 6, 4, seed=2)]
    expected = sample(windowed(in_context_model), contexts, 12)
    full = ISAConfig(keep_ratio=1, dense_query_ratio=1)
    before, shown = attached(windowed(in_context_model), full)
    after = windowed(attached(in_context_model, full)[0])
    for model in (before, after):
        out = sample(model, contexts, 12)
        assert (out - expected).norm() / expected.norm() < 1e-5
    # Three windows and one of their own for the end.
    assert shown[0].startswith(f"ISA: {4 * STEPS * BLOCKS} attention calls at 100.0% density")


@pytest.mark.slow
def test_windows_change_the_result_and_isa_is_sparse_in_them(in_context_model):
    contexts = [latent(12, seed=1)]
    model, shown = attached(windowed(in_context_model))
    out, whole = sample(model, contexts, 12), sample(in_context_model, contexts, 12)
    assert out.isfinite().all() and (out - whole).norm() / whole.norm() > 1e-4
    density = float(shown[0].split(" at ")[1].split("%")[0])
    assert 10 < density < 60


@pytest.mark.slow
def test_what_the_network_attends_over_does_not_grow_with_the_video(liveditor):
    most = []
    for frames in (12, 24):
        calls = Calls(attached(windowed(liveditor, "standard_uniform"))[0])
        sample(calls.model, [latent(frames, seed=1), latent(1, 6, 4, seed=2)], frames)
        most.append(max(length + sum(each.shape[2] for each in contexts) for _, length, contexts in calls.seen))
    assert most == [13, 13]


@pytest.mark.parametrize("windows_first", [True, False])
def test_memory_is_asked_for_a_window_not_for_the_video(in_context_model, monkeypatch, windows_first):
    class Asked(Exception):
        pass

    def load_models_gpu(models, memory_required=0, **kwargs):
        raise Asked(memory_required)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", load_models_gpu)
    asked = []
    for frames in (12, 30):
        model = windowed(attached(windowed(in_context_model) if windows_first else in_context_model)[0])
        with pytest.raises(Asked) as stopped:
            sample(model, [latent(frames, seed=1), latent(1, 6, 4, seed=2)], frames)
        asked += stopped.value.args
    assert asked[0] == asked[1] > 0


def test_a_video_as_long_as_the_text_is_wide_keeps_its_text(liveditor):
    text = comfy.conds.CONDCrossAttn(TEXT)
    window = IndexListContextWindow([3, 4, 5], dim=2, total_frames=64)
    cut = liveditor.model.resize_cond_for_context_window("c_crossattn", text, window, latent(64, 2, 2), None)
    assert torch.equal(cut.cond, TEXT)


def test_the_benchmark_finds_a_seam_and_invents_none():
    source = [frame for frame in torch.rand(121, 8, 12, 3, generator=torch.Generator().manual_seed(0)) / 2]
    # Latent frame 15 begins with frame 57.
    for step, shown in ((0.0, pytest.approx(1, abs=0.1)), (0.3, pytest.approx(3.7, abs=0.5))):
        edited = [0.5 * frame + step * (index >= 57) for index, frame in enumerate(source)]
        row = long_video.at_seams_and_inside(long_video.changes(iter(edited), iter(source)), {15})
        assert row["seams"] == 1 and row["difference_ratio"] == shown
        assert (row["difference_ratio"] > row["difference_by_chance"][1]) is (step > 0)
    assert row["at_seams"]["jump"] == pytest.approx(0.3 * 255, abs=5) and row["inside"]["jump"] < 5
