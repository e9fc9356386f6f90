"""Scores of clips and of pairs, for gates: plain numbers, computed from frames. Metrics are those of `evaluation` where it has them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from functools import lru_cache

import torch

from ..data.procedural.render import silhouettes
from ..data.procedural.scenes import COLOURS, PLACED, PLACES, SHAPES, half_extents
from ..data.procedural.styles import STYLES
from ..evaluation.frames import read_video, to_bytes, to_unit
from ..evaluation.metrics import dino
from ..evaluation.metrics.features import mobilenet_features
from ..evaluation.metrics.pixels import psnr
from ..evaluation.metrics.temporal import steadiness
from ..evaluation.weights import is_here
from ..optional import needed
from . import EXTRA
from .settings import DINO, MOBILENET

FLOW_SIDE = 256
"""Frames are shrunk to this long side, in pixels, before flow and cuts are computed."""

CHANGED = 24
"""Levels of 255, mean of the channels, from which a pixel counts as changed."""

FAR = 0.45
"""Distance of RGB in 0..1 from which a pixel has none of the named colours."""

MOST = 0.02
"""Share of the pixels, those that changed most, in which an edit shows whose place nobody knows."""

ROOM = 1.5
"""An added object lies within this many times the radius at which the included editor learned to draw it."""


def cuts(frames: torch.Tensor | Iterable[torch.Tensor], threshold: float, shortest: int = 1) -> list[int]:
    """Indices of frames that begin a shot, by PySceneDetect's ContentDetector. [T, H, W, 3] uint8, or chunks of these, which are read as
    they are needed. shortest: frames of a shot."""
    needed("cv2", "opencv-python-headless", EXTRA)
    common = needed("scenedetect.common", "scenedetect-headless", EXTRA)
    detector = needed("scenedetect.detectors", "scenedetect-headless", EXTRA).ContentDetector(threshold, min_scene_len=shortest)
    found = []
    chunks = [frames] if isinstance(frames, torch.Tensor) else frames
    for index, frame in enumerate(frame for chunk in chunks for frame in _small(chunk)):
        found += detector.process_frame(common.FrameTimecode(index, 25.0), frame[..., ::-1].copy())
    return [cut.frame_num for cut in found]


def motion(frames: torch.Tensor) -> float:
    """Mean length of the optical flow between neighbouring frames, in percent of the diagonal: OpenCV's DIS, medium preset."""
    cv2 = needed("cv2", "opencv-python-headless", EXTRA)
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in _small(frames)]
    if len(grey) < 2:
        return 0.0
    diagonal = math.hypot(*grey[0].shape)
    lengths = [torch.from_numpy(flow.calc(one, two, None)).norm(dim=-1).mean() for one, two in zip(grey, grey[1:])]
    return 100 * float(torch.stack(lengths).mean()) / diagonal


def clip_scores(frames: torch.Tensor, cut: float) -> dict[str, float]:
    """Of one clip, [T, H, W, 3] uint8."""
    return {
        "cuts": len(cuts(frames, cut)),
        "motion": motion(frames),
        "brightness": float(frames.float().mean()) / 255,
        "laplacian": _sharpness(frames, None),
    }


def features(frames: torch.Tensor, network: str) -> list[float] | None:
    """Of the clip's middle frame, of length 1. network: one of `settings.DUPLICATE_FEATURES`.

    None where the weights of MobileNetV2, which is usual, are not here. Raises RuntimeError, a sentence, where those of another are not.
    """
    if network == MOBILENET and not is_here(network):
        return None
    of = {MOBILENET: mobilenet_features, DINO: dino.features}[network]
    found = of(frames[len(frames) // 2][None])[0]
    return [round(float(value), 4) for value in torch.nn.functional.normalize(found, dim=0)]


def check_features(network: str) -> None:
    """Raises RuntimeError, a sentence, where `features` would."""
    if network == DINO:
        dino.ready()


def pair_scores(source: torch.Tensor, edit: torch.Tensor, expected: dict, cut: float) -> dict[str, float | None]:
    """Of an edit and its source, [T, H, W, 3] uint8 of one size; None for what cannot be measured of this kind of edit.

    expected: what a planner knows of a right edit: "style", one of the included editor's; "everywhere", true where another style changes all
        of the frame; "colour" of a new object; "place" of it and, with that, its "shape"; or "region", [T, H, W] bool, which may change.
        Without any of these the edit may be anywhere.

    present: mean change where the edit should be, in levels of 255; of the pixels that changed most where that is not known. outside_psnr: dB, where it should not. style: by how many dB the edit
    is nearer to the asked style than to the next other one. colour, shape: by how much the asked one is ahead of the next, -1 to 1.
    flicker_added: levels. drift: growth of the colour's difference from the first to the last frame, levels. sharpness: of the edit,
    relative to what is expected. cuts_added. Flicker, drift and sharpness are not there where the style to expect is not known.
    """
    edit, source = edit[: len(source)], source[: len(edit)]
    region = expected.get("region")
    if region is None and "place" in expected:
        region = box(expected["place"], *source.shape[:3])
    style = expected.get("style")
    reference = _styled(source, style) if style else source
    outside = None if region is None else ~region
    difference = (edit.float() - source.float()).abs().mean(-1)
    scores: dict[str, float | None] = {
        "present": float((difference[region] if region is not None else _shown(difference, expected)).mean()),
        "outside_psnr": None if outside is None else psnr_within(source, edit, outside),
        "style": _style_margin(source, edit, style) if style else None,
        "colour": None if style else _colour_margin(source, edit, region, expected.get("colour")),
        "shape": None if style else _shape_margin(source, edit, expected),
    }
    if len(edit) > 1:
        scores["cuts_added"] = len(cuts(edit, cut)) - len(cuts(source, cut))
    if expected.get("everywhere"):
        return scores
    if len(edit) > 1:
        scores["flicker_added"] = 255 * (steadiness(reference) - steadiness(edit))
        scores["drift"] = _drift(reference, edit, outside)
    base = _sharpness(reference, outside)
    scores["sharpness"] = _sharpness(edit, outside) / base if base > 1 else None
    return scores


def _shown(difference: torch.Tensor, expected: dict) -> torch.Tensor:
    """The part of [T, H, W] in which an edit without a place or region shows."""
    if expected.get("style") or expected.get("everywhere"):
        return difference
    return difference.flatten().topk(math.ceil(MOST * difference.numel())).values


def likeness(one: torch.Tensor, other: torch.Tensor) -> float | None:
    """PSNR of two frames, [H, W, 3] uint8, in dB; None where they have not one size."""
    return psnr(*to_unit(torch.stack([one, other]))) if one.shape == other.shape else None


def goodness(scores: dict) -> tuple:
    """Order of candidates of one proposal, the best is the largest: the right edit, kept surroundings, little flicker."""
    return (
        min(scores.get("present") or 0.0, 8.0) > 4.0,
        all((scores.get(name) or 0.0) >= 0 for name in ("style", "colour", "shape")),
        round(scores.get("outside_psnr") or 0.0) - abs(scores.get("flicker_added") or 0.0),
    )


def box(place: str, frames: int, height: int, width: int) -> torch.Tensor:
    """[T, H, W] bool: where an object is that the included editor adds at one of its places."""
    (across, down), (x_end, y_end) = _centre(place, height, width), half_extents(height, width)
    x = torch.linspace(-x_end, x_end, width)
    y = torch.linspace(-y_end, y_end, height)
    reach = ROOM * PLACED
    return (((y - down).abs() < reach)[:, None] & ((x - across).abs() < reach)[None]).expand(frames, height, width)


def _centre(place: str, height: int, width: int) -> tuple[float, float]:
    """Of an object that stays at a place, in half short sides."""
    (right, down), (x_end, y_end) = PLACES[place], half_extents(height, width)
    return 0.58 * right * x_end, 0.58 * down * y_end


def psnr_within(source: torch.Tensor, edit: torch.Tensor, part: torch.Tensor) -> float | None:
    """dB, mean over the frames that have a part; [T, H, W, 3] uint8 and [T, H, W] bool."""
    pairs = [(one, two, here) for one, two, here in zip(to_unit(edit), to_unit(source), part) if here.any()]
    return sum(psnr(*pair) for pair in pairs) / len(pairs) if pairs else None


def _styled(frames: torch.Tensor, style: str) -> torch.Tensor:
    return to_bytes(STYLES[style](to_unit(frames)).movedim(1, -1))


def _style_margin(source: torch.Tensor, edit: torch.Tensor, style: str) -> float:
    """dB by which the edit is nearer to the exact style than to any other and to the source; of the middle frame."""
    middle = slice(len(edit) // 2, len(edit) // 2 + 1)
    frame, made = to_unit(source[middle]), to_unit(edit[middle])
    errors = {name: float((make(frame).clamp(0, 1) - made).square().mean()) for name, make in STYLES.items()}
    others = [error for name, error in errors.items() if name != style] + [float((frame - made).square().mean())]
    return _decibels(min(others), errors[style])


def _colour_margin(source: torch.Tensor, edit: torch.Tensor, region: torch.Tensor | None, colour: str | None) -> float | None:
    """How much more of the changed pixels got the named colour than any other one, as a share of them: 1 where all did; None without a
    name, -1 where nothing changed.

    Shares of the edit less those of the source: background that comes to light has no colour of its own.
    """
    if colour is None:
        return None
    changed = _changed(source, edit)
    if region is not None:
        changed &= region
    if not changed.any():
        return -1.0
    gained = dict(zip(COLOURS, (_shares(edit[changed]) - _shares(source[changed])).tolist()))
    own = gained.pop(colour)
    return own - max(gained.values())


def _shares(pixels: torch.Tensor) -> torch.Tensor:
    """[N, 3] uint8 -> share of the pixels that each of COLOURS names."""
    named = _named(pixels)
    return torch.bincount(named[named >= 0], minlength=len(COLOURS)) / len(pixels)


def _named(pixels: torch.Tensor) -> torch.Tensor:
    """[..., 3] uint8 -> index of the nearest of COLOURS; -1 for what is far from all."""
    nearest = torch.cdist(pixels.flatten(0, -2).float() / 255, torch.tensor([*COLOURS.values()])).min(1)
    return torch.where(nearest.values < FAR, nearest.indices, -1).view(pixels.shape[:-1])


def _shape_margin(source: torch.Tensor, edit: torch.Tensor, expected: dict) -> float | None:
    """By how much the pixels that got the named colour overlap the asked shape's silhouette better than any other's, as intersection over
    union, in the middle frame; None without a colour, shape and place, -1 where no pixel got the colour."""
    if not {"colour", "shape", "place"} <= expected.keys():
        return None
    middle = len(edit) // 2
    height, width = edit.shape[1:3]
    coloured = _changed(source[middle], edit[middle]) & (_named(edit[middle]) == [*COLOURS].index(expected["colour"]))
    coloured &= box(expected["place"], 1, height, width)[0]
    if not coloured.any():
        return -1.0
    outlines = silhouettes(_centre(expected["place"], height, width), PLACED, height, width)
    overlaps = (outlines & coloured).sum((1, 2)) / (outlines | coloured).sum((1, 2))
    found = dict(zip(SHAPES, overlaps.tolist()))
    own = found.pop(expected["shape"])
    return own - max(found.values())


def _changed(source: torch.Tensor, edit: torch.Tensor) -> torch.Tensor:
    return (edit.float() - source.float()).abs().mean(-1) > CHANGED


def _decibels(other: float, own: float) -> float:
    return 10 * math.log10(max(other, 1e-6) / max(own, 1e-6))


def _drift(reference: torch.Tensor, edit: torch.Tensor, outside: torch.Tensor | None) -> float | None:
    means = []
    for index in (0, -1):
        part = torch.ones(edit.shape[1:3], dtype=torch.bool) if outside is None else outside[index]
        if not part.any():
            return None
        means.append((edit[index][part].float() - reference[index][part].float()).mean(0))
    return float((means[1] - means[0]).abs().max())


def _sharpness(frames: torch.Tensor, part: torch.Tensor | None) -> float:
    """Mean absolute Laplacian of the grey frames, levels: of the part's pixels, or of all."""
    cv2 = needed("cv2", "opencv-python-headless", EXTRA)
    found = []
    for index, frame in enumerate(frames):
        values = torch.from_numpy(cv2.Laplacian(cv2.cvtColor(frame.contiguous().numpy(), cv2.COLOR_RGB2GRAY), cv2.CV_32F)).abs()
        here = values if part is None else values[part[index]]
        if here.numel():
            found.append(here.mean())
    return float(torch.stack(found).mean()) if found else 0.0


def _small(frames: torch.Tensor) -> list:
    """numpy images with FLOW_SIDE pixels on the long side at most, as flow and cuts look at them."""
    cv2 = needed("cv2", "opencv-python-headless", EXTRA)
    height, width = frames.shape[1:3]
    scale = min(1.0, FLOW_SIDE / max(height, width))
    size = (max(16, round(width * scale)), max(16, round(height * scale)))
    return [cv2.resize(frame.contiguous().numpy(), size, interpolation=cv2.INTER_AREA) for frame in frames]


def read_frames(path: str) -> torch.Tensor:
    """[T, H, W, 3] uint8 of a whole small video. The last two are kept, for as long as their files are the same."""
    state = os.stat(path)
    return _read_frames(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=2)
def _read_frames(path: str, *state: int) -> torch.Tensor:
    return read_video(path).frames
