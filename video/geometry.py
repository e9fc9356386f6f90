"""Frame sizes: LIVEditor's trained buckets, resize and centre crop; and frames as the VAE and the network count them.

The Wan 2.1 VAE is causal: the first frame has a latent frame of its own, every other latent frame stands for
LATENT_STEP frames. So n latent frames are 4(n - 1) + 1 frames; any other number is filled up by repeating the last frame, and
cut off after decoding. A latent is VAE_STRIDE times smaller than the picture in both directions, and the network's tokens are
PATCH of its places over time, height and width.
`web/isa_graph.js` counts the same for the page, which has no Python.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import torch

from ..errors import NotFiniteError
from ..optional import needed

BUCKETS = ((544, 960), (720, 720), (960, 544), (480, 960), (960, 480))
"""Trained sizes, width × height."""

LATENT_STEP = 4
"""Frames per latent frame; the first latent frame stands for one frame."""

VAE_STRIDE = 8
"""Pixels along a side of a latent pixel."""

PATCH = (1, 2, 2)
"""Latent frames, rows and columns of one token."""

SIZE_STEP = VAE_STRIDE * PATCH[1]
"""Pixels along a side of a token. The model takes width and height in multiples of it."""

FRAMES_AT_A_TIME = 16


@dataclass(frozen=True)
class CropBox:
    """The part of the source frame that the model sees, in source pixels; where an edit goes back."""

    left: float
    top: float
    width: float
    height: float


def closest_bucket(width: float, height: float) -> tuple[int, int]:
    """The trained size whose aspect ratio is nearest, on a logarithmic scale so that tall and wide count alike."""
    return min(BUCKETS, key=lambda bucket: abs(math.log(bucket[0] / bucket[1]) - math.log(width / height)))


def fit_frames(
    frames: torch.Tensor, width: int, height: int, pixel_aspect: Fraction = Fraction(1)
) -> tuple[torch.Tensor, CropBox]:
    """[F, H, W, 3] in 0..1 -> [F, height, width, 3]: resized keeping aspect (bicubic, antialiased), centre-cropped.

    pixel_aspect: width of the source's pixels as shown, by their height; those of the result are square.
    Raises ValueError unless width and height are positive multiples of SIZE_STEP.
    """
    if width < SIZE_STEP or height < SIZE_STEP or width % SIZE_STEP or height % SIZE_STEP:
        raise ValueError(f"width and height must be multiples of {SIZE_STEP}; got {width}×{height}.")
    return cropped_to(frames, width, height, pixel_aspect)


def cropped_to(
    frames: torch.Tensor, width: int, height: int, pixel_aspect: Fraction = Fraction(1)
) -> tuple[torch.Tensor, CropBox]:
    """As `fit_frames`, for any positive width and height."""
    source_height, source_width = frames.shape[1:3]
    crop, resized, top, left = _placed((source_width, source_height), width, height, pixel_aspect)
    fitted = torch.empty(len(frames), height, width, 3)
    for start in range(0, len(frames), FRAMES_AT_A_TIME):
        chunk = _resized(frames[start : start + FRAMES_AT_A_TIME].movedim(-1, 1).float(), resized)
        chunk = chunk[:, :, top : top + height, left : left + width].clamp(0, 1)
        fitted[start : start + FRAMES_AT_A_TIME] = chunk.movedim(1, -1)
    return fitted, crop


def letterboxed(frame: torch.Tensor, size: tuple[int, int], stretch: Fraction = Fraction(1)) -> torch.Tensor:
    """[H, W, 3] in 0..1 -> [height, width, 3], as large as fits undistorted, in the middle; the rest is black.

    size: width and height. stretch: the shape of the frame's pixels, width by height, relative to the result's.
    """
    height, width = frame.shape[:2]
    shown = float(width * stretch)
    scale = min(size[0] / shown, size[1] / height)
    rows, columns = max(1, round(height * scale)), max(1, round(shown * scale))
    if (rows, columns) != (height, width):
        resize = needed("kornia.geometry.transform", "kornia").resize
        smaller = rows < height or columns < width
        frame = resize(frame.movedim(-1, 0)[None], (rows, columns), interpolation="bicubic", antialias=smaller)[0].movedim(
            0, -1
        )
    fitted = frame.new_zeros(size[1], size[0], 3)
    top, left = (size[1] - rows) // 2, (size[0] - columns) // 2
    fitted[top : top + rows, left : left + columns] = frame.clamp(0, 1)
    return fitted


def _resized(frames: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """[F, 3, H, W] at another height and width: bicubic, antialiased where it becomes smaller."""
    height, width = frames.shape[-2:]
    if size == (height, width):
        return frames
    smaller = size[0] < height or size[1] < width
    return needed("kornia.geometry.transform", "kornia").resize(frames, size, interpolation="bicubic", antialias=smaller)


def crop_box(size: tuple[int, int], width: int, height: int, pixel_aspect: Fraction = Fraction(1)) -> CropBox:
    """The part of a source of this width and height that `fit_frames` keeps for width × height."""
    return _placed(size, width, height, pixel_aspect)[0]


def _placed(size, width, height, pixel_aspect) -> tuple[CropBox, tuple[int, int], int, int]:
    """The crop in source pixels, and the height and width to resize to, top and left to crop at."""
    shown = float(size[0] * pixel_aspect)
    scale = max(width / shown, height / size[1])
    resized = max(height, round(size[1] * scale)), max(width, round(shown * scale))
    top, left = (resized[0] - height) // 2, (resized[1] - width) // 2
    # Each axis has its own scale since the resized size is whole pixels.
    y, x = size[1] / resized[0], size[0] / resized[1]
    return CropBox(left * x, top * y, width * x, height * y), resized, top, left


def size_within(width: float, height: float, longest: int) -> tuple[int, int]:
    """The size nearest to width × height in aspect, no side above `longest`, in multiples of SIZE_STEP."""
    scale = min(1.0, longest // SIZE_STEP * SIZE_STEP / max(width, height))
    fitted_width, fitted_height = (max(SIZE_STEP, round(side * scale / SIZE_STEP) * SIZE_STEP) for side in (width, height))
    return fitted_width, fitted_height


def latent_frames(frames: int) -> int:
    """Latent frames of a video of `frames` >= 1 frames, after its last frame is repeated up to 4n+1."""
    return (frames + LATENT_STEP - 2) // LATENT_STEP + 1


def decoded_frames(latent: int) -> int:
    """Frames to which `latent` >= 1 latent frames decode."""
    return LATENT_STEP * (latent - 1) + 1


def latent_shape(frames: int, width: int, height: int) -> tuple[int, int, int]:
    """(latent frames, rows, columns) of a video; width and height in pixels, multiples of SIZE_STEP."""
    return latent_frames(frames), height // VAE_STRIDE, width // VAE_STRIDE


def token_count(frames: int, width: int, height: int) -> int:
    """Tokens of one video, without any context; width and height in pixels, multiples of SIZE_STEP."""
    return math.prod(side // patch for side, patch in zip(latent_shape(frames, width, height), PATCH))


def latent_groups(chunks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Chunks of frames, [f, ...] each, as groups of 1, 4, 4, ... frames: each becomes one latent frame.

    The last frame is repeated to fill the last group.
    """
    size, rest = 1, None
    for chunk in chunks:
        rest = chunk if rest is None else torch.cat([rest, chunk])
        while len(rest) >= size:
            yield rest[:size]
            rest, size = rest[size:], LATENT_STEP
    if rest is not None and len(rest):
        yield torch.cat([rest, rest[-1:].expand(size - len(rest), *rest.shape[1:])])


def first_frames(chunks: Iterable[torch.Tensor], count: int, cure: str) -> Iterator[torch.Tensor]:
    """Decoded chunks, [f, H, W, 3] each, cut to the first `count` frames, without those that were repeated up to 4n+1.

    cure: what to do where the VAE overflowed.
    Raises NotFiniteError at a chunk that holds NaN or infinity, rather than write black frames.
    """
    for chunk in chunks:
        chunk = chunk[:count]
        count -= len(chunk)
        if len(chunk) == 0:
            return
        if not torch.isfinite(chunk).all():
            raise NotFiniteError(f"The VAE decoded NaN, the video would be black: {cure}.")
        yield chunk
