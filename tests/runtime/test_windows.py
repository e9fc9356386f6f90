"""Windows of a long video: those of ComfyUI's Wan Context Windows, and its noise."""

import pytest
import torch
from comfy.context_windows import apply_freenoise, create_windows_uniform_standard
from comfy_extras.nodes_context_windows import WanContextWindowsManualNode
from hypothesis import example, given
from hypothesis import strategies as st
from liveditor_isa.runtime.windows import Windows, cut


class Patched:
    """Takes what core's node sets on a model."""

    def __init__(self):
        self.model_options = {}

    def clone(self):
        return self

    def add_wrapper_with_key(self, *args):
        pass


def handler_of_core(window: int, overlap: int):
    """That of the node, at its defaults for the rest."""
    return WanContextWindowsManualNode.execute(
        Patched(), window, overlap, "standard_uniform", 1, False, "pyramid", True
    ).result[0].model_options["context_handler"]  # fmt: skip


@given(st.integers(1, 90), st.integers(1, 100), st.data())
@example(33, 5, None)
def test_the_same_windows_as_core_in_every_step(frames, window, data):
    overlap = data.draw(st.integers(0, window)) if data else 4
    step = data.draw(st.integers(0, 50)) if data else 3
    core = handler_of_core(window, overlap)
    if core.context_overlap >= core.context_length:
        with pytest.raises(ValueError, match="must be shorter than the window"):
            Windows.of_frames(window, overlap)
        return
    windows = Windows.of_frames(window, overlap)
    assert (windows.length, windows.overlap) == (core.context_length, core.context_overlap)
    core._step = step
    expected = sorted(create_windows_uniform_standard(frames, core, {}))
    found = windows.at(step, frames)
    assert [[*window] for window in found] == expected
    assert set().union(*found) == set(range(frames))


@given(st.integers(1, 60), st.integers(2, 12), st.data())
def test_the_same_noise_as_core(frames, length, data):
    overlap, seed = data.draw(st.integers(0, length - 1)), data.draw(st.integers(0, 2**63 - 1))
    noise = torch.randn(1, 2, frames, 1, 3, generator=torch.Generator().manual_seed(0))
    expected = apply_freenoise(noise.clone(), 2, length, overlap, seed)
    before = noise.clone()
    assert torch.equal(Windows(length, overlap).shuffled(noise, seed), expected) and torch.equal(noise, before)


def test_where_all_windows_agree_nothing_changes():
    """Also where a window begins with a frame that is not its own."""
    whole, seen = torch.randn(1, 2, 12, 3, 4), []

    def call(window):
        seen.append(window)
        part = cut(whole, window, 12).clone()
        part[:, :, : bool(window.start)] = 100 if window.start else part[:, :, :0]
        return part

    torch.testing.assert_close(Windows(5, 2).fused(1, 12, call), whole)
    assert all(window.start == 0 or len(window) == 6 for window in seen) and len(seen) > 3


def test_the_middle_of_a_window_counts_more_than_its_ends():
    said = iter((0.0, 1.0))
    found = Windows(4, 2).fused(0, 6, lambda window: torch.full((1, 1, len(window), 1, 1), next(said)))
    assert found.flatten().tolist() == pytest.approx([0, 0, 1 / 3, 2 / 3, 1, 1])


def test_no_window_is_no_windows():
    assert Windows.of_frames(0) is None and Windows.of_frames(33).overlap == 4
    with pytest.raises(ValueError, match="belongs to windows"):
        Windows.of_frames(0, 8)
