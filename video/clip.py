"""The part of a video that will be edited, read in chunks, and what the result needs of it: frame rate, sound, crop."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import torch

from .geometry import FRAMES_AT_A_TIME, CropBox
from .source import Source
from .streams import LONGEST_PAUSE

__all__ = ["SOURCE_CLIP", "Clip", "SourceClip", "open_clip"]

SOURCE_CLIP = "source_clip"
"""Key in ComfyUI's LATENT dictionary that carries the SourceClip through the sampler."""

HIGHEST_RATE = 240
"""Highest frame rate accepted from a file with uneven timestamps; some state 1000, the resolution of their clock."""

REORDERED = 16
"""Frames by which a decoder puts one later than it was sent, at most; some containers then give it another one's time."""


@dataclass(frozen=True)
class Clip:
    """Frames that are read when they are needed, in bounded memory.

    fps: exact rate, at which they are evenly spaced. size: width and height in pixels, after rotation.
    audio: ComfyUI's AUDIO, no longer than the frames, or None. Its key "layout" names the channels as ffmpeg does.
    pixel_aspect: width of a pixel as shown, by its height. notices: sentences on what was converted or left out.
    """

    fps: Fraction
    size: tuple[int, int]
    audio: dict | None
    source: Source = field(repr=False)
    indices: tuple[int, ...] = field(repr=False)
    """Indices of the source's frames, in order; an index may occur several times."""
    source_frames: int = 0
    """Frames of the source that were counted: all, unless the clip is limited."""
    pixel_aspect: Fraction = Fraction(1)
    notices: tuple[str, ...] = ()
    skipped: Fraction = Fraction(0)
    """Seconds of the source before the first frame."""

    @property
    def frames(self) -> int:
        return len(self.indices)

    @property
    def shown_size(self) -> tuple[float, float]:
        """Width and height in square pixels."""
        return float(self.size[0] * self.pixel_aspect), self.size[1]

    def chunks(self, frames_at_a_time: int = FRAMES_AT_A_TIME) -> Iterator[torch.Tensor]:
        """[f, H, W, 3] in 0..1 on the CPU, from the first frame on; may be called again.

        Raises ValueError when the file has changed since, or cannot be read any more.
        """
        repeated = [(index, len(list(same))) for index, same in itertools.groupby(self.indices)]
        images = self.source.images(index for index, _ in repeated)
        frames = itertools.chain.from_iterable(itertools.repeat(image, times) for image, (_, times) in zip(images, repeated))
        while chunk := list(itertools.islice(frames, frames_at_a_time)):
            yield torch.stack(chunk)


@dataclass(frozen=True)
class SourceClip:
    """What *Decode Video* needs of the source: its frames, and the part of them that was edited."""

    clip: Clip
    crop: CropBox


def open_clip(
    source: Source, max_frames: int, fps: float, start_frame: int = 0, every_nth: int = 1, sound: bool = True
) -> Clip:
    """At most `max_frames` (0: all) of a video at `fps` (0: its own rate, else by nearest frame in time).

    start_frame: frames to skip at that rate. every_nth: then take every n-th frame, so that the clip's rate is fps / n.
    sound: whether to read it.
    A file is decoded once to count its frames, no further than needed. Where its timestamps are uneven, its own rate is
    the average, and frames are the nearest in time, so that motion and sound stay together.
    Raises ValueError for a video that holds no frame, none from `start_frame` on, or cannot be read.
    """
    if start_frame < 0 or every_nth < 1:
        raise ValueError(f"start_frame must be 0 or more and every_nth 1 or more; got {start_frame} and {every_nth}.")
    typed = Fraction(fps).limit_denominator(1000)
    # 29.97, entered for 30000/1001, means the video's own rate.
    if abs(fps / source.rate - 1) < 1e-3:
        typed = Fraction(0)
    needed = start_frame + max_frames * every_nth if max_frames > 0 else 0
    first, stamps, size = _scan(source, needed, typed)
    rate, times = _own_rate(stamps, source.rate)
    wanted = typed or rate
    at_rate = _nearest(times, rate, wanted, needed)
    indices = at_rate[start_frame::every_nth]
    if not indices:
        raise ValueError(
            f"start_frame {start_frame} is past the end: the video has {len(at_rate)} frames at {float(wanted):g} fps."
        )
    if max_frames > 0:
        indices = indices[:max_frames]
    own = wanted / every_nth
    begin = (first or 0) + start_frame / wanted if start_frame else first
    audio = source.sound(begin, len(indices) / own) if sound else None
    return Clip(
        own, size, audio, source, tuple(indices), len(times), source.pixel_aspect(), source.notices(), start_frame / wanted
    )


def _scan(source: Source, count: int, fps: Fraction) -> tuple[Fraction | None, list[Fraction | None], tuple[int, int]]:
    """Time of the first frame, times after it, and the size; of no more frames than the first `count` (0: all) at `fps` need."""
    needed = math.ceil(count * source.rate / (fps or source.rate))
    reach = count / (fps or source.rate)
    first: Fraction | None = None
    times: list[Fraction | None] = []
    size = (0, 0)
    for time, shown in source.stamps():
        first = first if times else time
        size = size if times else shown
        times.append(None if time is None or first is None else time - first)
        # One extra for rounding. A varying rate may start slow or fast.
        if count > 0 and len(times) > needed and (times[-1] is None or times[-1] >= reach):
            break
    if not times:
        raise ValueError("The video holds no frame. Pick another file, or check where it is trimmed.")
    return first, times, size


def _own_rate(stamps: list[Fraction | None], declared: Fraction) -> tuple[Fraction, list[Fraction]]:
    """Frames per second, and the frames' times: even ones where timestamps are even but for rounding, or unusable."""
    count = len(stamps)
    times = _growing(stamps, declared)
    if times is None or any(after - before > LONGEST_PAUSE for before, after in itertools.pairwise(times)):
        return declared, [index / declared for index in range(count)]
    measured = (count - 1) / times[-1] if count > 1 else declared
    for rate in (declared, measured.limit_denominator(1001)):
        if all(abs(time * rate - index) <= Fraction(1, 2) for index, time in enumerate(times)):
            return rate, [index / rate for index in range(count)]
    return (declared if declared <= HIGHEST_RATE else measured.limit_denominator(1001)), times


def _growing(stamps: list[Fraction | None], declared: Fraction) -> list[Fraction] | None:
    """The frames' times from 0 on, each later than the one before: sorted, and between their neighbours where they are missing,
    repeated or far ahead. None where that is so of most, or where they are out of order by more than decoders put frames."""
    known = [time for time in stamps if time is not None]
    if len(known) == len(stamps) and all(before < after for before, after in itertools.pairwise(known)):
        return known
    stamps = _without_leaps(stamps, REORDERED / declared)
    known = [time for time in stamps if time is not None]
    order = sorted(range(len(known)), key=known.__getitem__)
    if any(abs(at - index) > REORDERED for index, at in enumerate(order)):
        return None
    in_order = iter([known[at] for at in order])
    good: dict[int, Fraction] = {}
    latest: Fraction | None = None
    for index, stamp in enumerate(stamps):
        if stamp is not None:
            time = next(in_order)
            if latest is None or time > latest:
                good[index] = latest = time
    if not good or 2 * len(good) < len(stamps):
        return None
    first, last = min(good), max(good)
    good |= {index: good[first] - (first - index) / declared for index in range(first)}
    good |= {index: good[last] + (index - last) / declared for index in range(last + 1, len(stamps))}
    for before, after in itertools.pairwise(sorted(good)):
        step = (good[after] - good[before]) / (after - before)
        good |= {index: good[before] + (index - before) * step for index in range(before + 1, after)}
    return [good[index] - good[0] for index in range(len(stamps))]


def _without_leaps(stamps: list[Fraction | None], most: Fraction) -> list[Fraction | None]:
    """None for each time that is ahead of a later frame's by more than `most` seconds."""
    kept, least = list(stamps), None
    for index in reversed(range(len(stamps))):
        time = stamps[index]
        if time is not None and (least is None or time <= least + most):
            least = time if least is None else min(least, time)
        else:
            kept[index] = None
    return kept


def _nearest(times: list[Fraction], rate: Fraction, wanted: Fraction, most: int) -> list[int]:
    """Index of the frame nearest to every 1/wanted of a second, the first `most` (0: all). A tie goes to the earlier frame.
    Fractions keep ties exact, so that 24 to 16 fps skips evenly."""
    nearest, at = [], 0
    count = max(1, round((times[-1] + 1 / rate) * wanted))
    for index in range(min(count, most or count)):
        time = index / wanted
        while at + 1 < len(times) and times[at + 1] - time < time - times[at]:
            at += 1
        nearest.append(at)
    return nearest
