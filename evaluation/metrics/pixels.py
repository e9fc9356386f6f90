"""PSNR, SSIM, MSE and LPIPS against the source and the right edit: of whole frames, and within and outside of the mask.

Frames are compared one by one, in 0..1, and values are means over the frames. kornia computes SSIM, torchmetrics LPIPS. A part of the frame means, for
PSNR and MSE, the pixels of that part alone; for SSIM, the mean of its map over that part; for LPIPS, whose network looks
around every pixel, both pictures with all other pixels black.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch

from ...optional import needed
from .. import EXTRA
from ..frames import Inputs, to_unit
from .lpips import NETWORKS, distance, model_of, weights_of
from .metric import Metric, NothingToMeasure

MOST_DECIBELS = 100.0
"""PSNR of equal frames, as in `training.tiny.evaluate.decibels`: infinity has no mean."""

WHOLE, INSIDE, OUTSIDE = "", "inside", "outside"
AGAINST = ("source", "reference")


def mse(edit: torch.Tensor, other: torch.Tensor, part: torch.Tensor | None = None) -> float:
    """Of one frame each, [3, H, W] in 0..1; part: [H, W] bool."""
    error = (edit - other).square()
    return float((error if part is None else error[:, part]).mean())


def psnr(edit: torch.Tensor, other: torch.Tensor, part: torch.Tensor | None = None) -> float:
    """As `mse`, in dB."""
    error = mse(edit, other, part)
    return MOST_DECIBELS if error == 0 else min(-10 * math.log10(error), MOST_DECIBELS)


def ssim(edit: torch.Tensor, other: torch.Tensor, part: torch.Tensor | None = None) -> float:
    """As `mse`. Gaussian window of 11 pixels, deviation 1.5, as in its paper (Wang et al., 2004); the border is reflected."""
    full = needed("kornia.metrics", "kornia", EXTRA).ssim(edit[None], other[None], 11)
    return float((full if part is None else full[0, :, part]).mean())


def lpips(network: str, edit: torch.Tensor, other: torch.Tensor, part: torch.Tensor | None = None) -> float:
    """As `mse`; less is nearer."""
    if part is not None:
        edit, other = edit * part, other * part
    return float(distance(network, edit[None], other[None]))


def _value(measure: Callable[..., float], name: str, against: str, part: str, inputs: Inputs) -> dict[str, float]:
    edit, other = inputs.edit, getattr(inputs, against)
    values = []
    for index in range(len(edit)):
        region = None if part == WHOLE else inputs.mask[index] if part == INSIDE else ~inputs.mask[index]
        if region is None or region.any():
            values.append(measure(*(to_unit(video[index][None])[0] for video in (edit, other)), region))
    if not values:
        raise NothingToMeasure(f"The mask leaves no pixel {part} of it in any frame.")
    return {name: sum(values) / len(values)}


def _metrics() -> list[Metric]:
    measures: list[tuple[str, Callable, bool, str, Callable, Callable]] = [
        ("psnr", psnr, True, "dB", str, lambda: None),
        ("ssim", ssim, True, "", str, lambda: None),
        ("mse", mse, False, "", str, lambda: None),
    ]
    measures += [
        (f"lpips_{name}", partial(lpips, name), False, "", partial(model_of, name), partial(weights_of, name))
        for name in NETWORKS
    ]
    made = []
    for name, measure, higher, unit, model, ready in measures:
        for against in AGAINST:
            for part in (WHOLE, INSIDE, OUTSIDE):
                column = "_".join(filter(None, (name, against, part)))
                where = {WHOLE: "whole frames", INSIDE: "the mask's inside", OUTSIDE: "what is outside of the mask"}[part]
                needs = tuple(filter(None, (against if against == "reference" else "", "mask" if part else "")))
                made.append(
                    Metric(
                        column, partial(_value, measure, column, against, part),
                        f"{name.split('_')[0].upper()} of {where}, edit against {'right edit' if against == 'reference' else against}.",
                        needs, higher=higher, unit=unit, model=model, ready=ready,
                    )
                )  # fmt: skip
    return made


METRICS = _metrics()
