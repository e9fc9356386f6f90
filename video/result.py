"""The pictures of an edit: its decoded frames, alone or put back into the source's. All hosts make them here."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from fractions import Fraction

import torch

from .clip import SourceClip
from .colour import match_colours
from .composite import put_back
from .region import FEATHER, Region, SourceFrames


class Result:
    """How an edit is shown, with its source.

    size: width and height that were edited. mask, boxes, feather: as in `Region`; they put the edit back into the source's whole frame,
    as `whole_frame` does without them. match_colors: corrects the edit's colours, as in `colour.match_colours`.

    Raises ValueError for a region in which the edit would show nowhere, and for a box that is none.
    """

    def __init__(
        self,
        source: SourceClip,
        size: tuple[int, int],
        mask: torch.Tensor | None = None,
        boxes: dict | list | None = None,
        feather: int = FEATHER,
        whole_frame: bool = False,
        match_colors: bool = False,
    ):
        clip = source.clip
        self._source, self._match_colors = source, match_colors
        self.region = Region(clip.size, source.crop, mask, boxes, feather, SourceFrames(clip.indices, clip.source_frames))
        self.whole_frame = whole_frame or self.region.restricted
        self.size = clip.size if self.whole_frame else size
        """Width and height of the pictures. An odd row or column of the source's at the end is dropped."""
        self.pixel_aspect = clip.pixel_aspect if self.whole_frame else Fraction(1)

    def frames(self, chunks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Decoded chunks, [f, h, w, 3] in 0..1 -> chunks of one frame, [1, H, W, 3]; the source is read one frame at a time."""
        return self._frames(self._pairs(chunks)) if self.whole_frame or self._match_colors else iter(chunks)

    def frames_and_originals(self, chunks: Iterable[torch.Tensor]) -> tuple[Iterator[torch.Tensor], Iterator[torch.Tensor]]:
        """`frames`, and the source's own, [H, W, 3]; they have to be taken at the same pace."""
        pairs, others = itertools.tee(self._pairs(chunks))
        return self._frames(pairs), (original for _, original in others)

    def _pairs(self, chunks) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        pairs = zip(itertools.chain.from_iterable(chunks), itertools.chain.from_iterable(self._source.clip.chunks(1)))
        return match_colours(pairs, self.region, self._source.crop) if self._match_colors else pairs

    def _frames(self, pairs) -> Iterator[torch.Tensor]:
        shown = put_back(pairs, self.region, self._source.crop) if self.whole_frame else (edited for edited, _ in pairs)
        return (frame[None] for frame in shown)
