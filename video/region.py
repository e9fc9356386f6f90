"""Where an edit shows in its source's frame: mask, boxes, and the crop that the model saw."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from .geometry import CropBox

FEATHER = 16
"""Pixels of the source over which an edit fades in, where nobody says."""


class SourceFrames(NamedTuple):
    """Which frame of the source each frame of an edit is, and how many frames of the source were counted."""

    indices: tuple[int, ...]
    counted: int

    def place(self, frame: int, given: int) -> int:
        """Index into `given` masks of the one for a frame of the edit."""
        return frame if self._of_the_edit(given) else self.indices[frame]

    def are_covered_by(self, given: int) -> bool:
        return self._of_the_edit(given) or given > max(self.indices)

    def _of_the_edit(self, given: int) -> bool:
        return given == len(self.indices) and given != self.counted


class Region:
    """The weight of the edit at each pixel of the source, frame by frame.

    size: width and height of the source's frame. crop: the part of it that was edited; nothing shows outside of it.
    mask: [M, h, w] in 0..1, or bytes, 1 or 255 where the edit shows; of any size, it covers the whole frame. boxes: ComfyUI's BOUNDING_BOX in
    pixels of the source: a box or boxes for every frame, or a list of boxes for each. With both, the edit shows in either;
    with neither, in all of the crop. Beyond their last frame, mask and boxes stay as they are there.
    frames: which frame of the source each frame of the edit is. Masks and boxes are the source's, frame by frame, unless
    there are as many as the edit has frames.
    feather: pixels over which the edit fades in, from the region's edge inwards.

    Raises ValueError for a region in which the edit would show nowhere, and for a box that is none.
    """

    def __init__(
        self,
        size: tuple[int, int],
        crop: CropBox,
        mask: torch.Tensor | None = None,
        boxes: dict | list | None = None,
        feather: int = 0,
        frames: SourceFrames | None = None,
    ):
        self.size, self.feather, self._frames = size, feather, frames
        self.mask = None if mask is None else mask.reshape(-1, *mask.shape[-2:])
        self.boxes = None if boxes is None else _per_frame(boxes)
        self._crop = _covered(size, vars(crop) | {"x": crop.left, "y": crop.top})
        self._last_key: list[int] | None = None
        self._last_weights: tuple[torch.Tensor, torch.Tensor]
        if self.restricted and not self._shows_somewhere():
            raise ValueError(
                "The mask is empty, or lies outside of the part that was edited: nothing of the edit would show. "
                "Paint the mask white where the edit may change the video, or leave it out."
            )

    @property
    def restricted(self) -> bool:
        """Whether there is a mask or a box."""
        return self.mask is not None or self.boxes is not None

    def weights(self, frame: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(shown, chosen) of a frame, both [H, W] in 0..1.

        shown: how much of the edit each pixel shows; exactly 0 outside of the region, exactly what mask and crop say
        `feather` pixels inside. chosen: mask and boxes alone.
        """
        key = self._key(frame)
        if self._last_key != key:
            chosen = self._chosen(frame)
            self._last_weights = _feathered(chosen * self._crop, self.feather), chosen
            self._last_key = key
        return self._last_weights

    def notices(self) -> list[str]:
        """Sentences on a mask of another shape than the source's frame, and on masks or boxes whose number fits neither the
        source's frames nor the edit's."""
        said = []
        if self.mask is not None:
            (height, width), (across, down) = self.mask.shape[-2:], self.size
            if abs(width * down / (height * across) - 1) > 0.02:
                said.append(f"The mask, {width}×{height}, was stretched over the source's frame, {across}×{down}.")
        if self._frames is None:
            return said
        return said + [
            f"There are {len(given)} {name} for {len(self._frames.indices)} frames of the edit, which go up to frame "
            f"{max(self._frames.indices) + 1} of the source: the last one is used for the rest."
            for name, given in (("masks", self.mask), ("lists of boxes", self.boxes))
            if given is not None and 1 < len(given) and not self._frames.are_covered_by(len(given))
        ]

    def _key(self, frame: int) -> list[int]:
        """The same for frames with the same mask and boxes."""
        return [self._at(frame, given) for given in (self.mask, self.boxes) if given is not None]

    def _at(self, frame: int, given: torch.Tensor | list) -> int:
        """Which mask or list of boxes belongs to a frame of the edit."""
        frame = self._frames.place(frame, len(given)) if self._frames else frame
        return min(frame, len(given) - 1)

    def _chosen(self, frame: int) -> torch.Tensor:
        width, height = self.size
        chosen = torch.full((height, width), 0.0 if self.restricted else 1.0)
        if self.mask is not None:
            chosen = self._resized(self.mask[self._at(frame, self.mask)])
        for box in self.boxes[self._at(frame, self.boxes)] if self.boxes is not None else ():
            chosen = torch.maximum(chosen, _covered(self.size, box))
        return chosen

    def _resized(self, mask: torch.Tensor) -> torch.Tensor:
        scale = 255 if mask.dtype == torch.uint8 else 1
        mask = mask.float().cpu().nan_to_num(0).clamp(0, scale) / scale
        if mask.shape == self.size[::-1]:
            return mask
        resized = F.interpolate(mask[None, None], size=self.size[::-1], mode="bilinear", antialias=True)
        return resized[0, 0].clamp(0, 1)

    def _shows_somewhere(self) -> bool:
        count = max(len(given) for given in (self.mask, self.boxes) if given is not None)
        frames = {tuple(self._key(frame)): frame for frame in range(len(self._frames.indices) if self._frames else count)}
        return any((self._chosen(frame) * self._crop).any() for frame in frames.values())


def box_list(boxes: Iterable[Sequence[float]]) -> list[dict] | None:
    """`Region`'s boxes of (x, y, width, height) each; None of none."""
    return [dict(zip(("x", "y", "width", "height"), box)) for box in boxes] or None


def extent(weight: torch.Tensor) -> tuple[slice, slice]:
    """[H, W] -> rows and columns that contain all values above 0; empty slices if there are none."""

    def along(axis: int) -> slice:
        inside = (weight > 0).any(axis).nonzero()
        return slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0, 0)

    return along(1), along(0)


def _per_frame(boxes: dict | list) -> list[list[dict]]:
    """The forms that core's nodes give and take: a box, a list of boxes for all frames, a list of boxes for each frame."""
    if isinstance(boxes, dict):
        boxes = [boxes]
    if not boxes or isinstance(boxes[0], dict):
        boxes = [boxes]
    for box in (box for frame in boxes for box in frame):
        if not all(math.isfinite(box.get(side, math.nan)) for side in ("x", "y", "width", "height")):
            raise ValueError(f"A box needs x, y, width and height in pixels; got {box}.")
    return boxes


def _covered(size: tuple[int, int], box: dict) -> torch.Tensor:
    """[H, W]: the share of each pixel that the box covers."""
    across, down = (
        (torch.minimum(edges + 1, edges.new_tensor(start + length)) - edges.clamp(min=start)).clamp(0, 1)
        for edges, start, length in (
            (torch.arange(size[0], dtype=torch.float64), box["x"], box["width"]),
            (torch.arange(size[1], dtype=torch.float64), box["y"], box["height"]),
        )
    )
    return torch.outer(down, across).float()


def _feathered(region: torch.Tensor, pixels: int) -> torch.Tensor:
    """The region with a ramp inwards from its edge. The frame's border does not count as an edge."""
    if pixels <= 0 or bool((region > 0).all()):
        return region
    from scipy.ndimage import distance_transform_edt

    rows, columns = (slice(max(0, part.start - 1), part.stop + 1) for part in extent(region))
    # The nearest pixel outside is at most as far as the row or column just around the region.
    inside = (region[rows, columns] > 0).numpy()
    ramp = torch.from_numpy((distance_transform_edt(inside) / (pixels + 1)).clip(0, 1)).float()
    feathered = region.clone()
    feathered[rows, columns] *= ramp * ramp * (3 - 2 * ramp)
    return feathered
