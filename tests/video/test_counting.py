"""Frames, latent frames and tokens: one count for the VAE, the network, the command and the benchmarks; a result cut and checked."""

import pytest
import torch
from liveditor_isa.video.geometry import (
    decoded_frames,
    first_frames,
    latent_frames,
    latent_groups,
    latent_shape,
    token_count,
)


@pytest.mark.parametrize("frames", range(1, 30))
def test_latent_frames_are_the_groups_that_the_vae_encodes(frames):
    groups = [len(group) for group in latent_groups([torch.zeros(frames, 1)])]
    assert latent_frames(frames) == len(groups)
    assert decoded_frames(len(groups)) == sum(groups) >= frames > decoded_frames(len(groups) - 1)


def test_tokens_of_a_trained_size():
    """Of 81 frames at 832×480; with the edit, 65,520."""
    assert latent_shape(81, 832, 480) == (21, 60, 104)
    assert token_count(81, 832, 480) == 21 * 30 * 52 == 32_760


def test_a_result_is_cut_to_its_length_whatever_the_chunks():
    frames = torch.arange(13.0)[:, None, None, None].expand(13, 2, 2, 3)
    for size in (1, 4, 5, 13):
        cut = torch.cat([*first_frames(iter(frames.split(size)), 10, "use dtype fp32")])
        assert torch.equal(cut, frames[:10])
    assert sum(map(len, first_frames(iter(frames.split(4)), 99, "use dtype fp32"))) == 13


def test_what_comes_after_the_end_is_not_looked_at():
    broken = torch.full((4, 2, 2, 3), torch.nan)
    chunks = first_frames([torch.zeros(4, 2, 2, 3), broken], 4, "use dtype fp32")
    assert len(torch.cat([*chunks])) == 4
    chunks = first_frames([torch.zeros(4, 2, 2, 3), broken], 5, "use dtype fp32")
    next(chunks)
    with pytest.raises(ValueError, match="^The VAE decoded NaN, the video would be black: use dtype fp32.$"):
        next(chunks)
