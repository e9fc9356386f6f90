"""VMAF against vmaf-torch 1.1.0, which counts in floating point, and computes of the luma that ffmpeg makes of the frames."""

import pytest
import torch
from liveditor_isa.evaluation.metrics.vmaf import vmaf
from skimage import data
from torch.nn.functional import avg_pool2d


def moving() -> torch.Tensor:
    """[8, 144, 192, 3] uint8: a cat's photograph that moves sideways."""
    cat = torch.from_numpy(data.chelsea())
    return torch.stack([cat[80:224, 100 + 3 * at : 292 + 3 * at] for at in range(8)])


def blurred(frames: torch.Tensor) -> torch.Tensor:
    """The mean of 3×3 pixels, rounded down."""
    sums = avg_pool2d(frames.movedim(-1, 1).double(), 3, 1, 1, divisor_override=1).round().long()
    return (sums // 9).to(torch.uint8).movedim(1, -1)


def sharpened(frames: torch.Tensor) -> torch.Tensor:
    return (2 * frames.int() - blurred(frames).int()).clamp(0, 255).to(torch.uint8)


def grainy(frames: torch.Tensor) -> torch.Tensor:
    """20 levels more in every third pixel of a row, which differ from frame to frame."""
    width, count = frames.shape[2], len(frames)
    where = (torch.arange(width)[None] + torch.arange(count)[:, None]) % 3 == 0
    return (frames.int() + 20 * where[:, None, :, None].int()).clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize(
    "edit, wanted",
    [
        (lambda frames: frames, 99.678),
        (blurred, 81.002),
        (sharpened, 92.439),
        (grainy, 98.948),
        (torch.zeros_like, 6.629),
    ],
)
def test_vmaf_is_that_of_another_implementation(edit, wanted):
    """Which would give 100 for what is sharpened, by the model that has no limit to what sharpening gains, and other values with edit and
    source exchanged."""
    source = moving()
    assert vmaf(edit(source), source) == pytest.approx(wanted, abs=0.05)
