"""Quality of an edited clip, and its closeness to the edit with full attention."""

from __future__ import annotations

from collections import defaultdict
from statistics import fmean, stdev

import torch
import torch.nn.functional as F
from kornia.color import rgb_to_grayscale
from kornia.metrics import ssim

from ...data.procedural.stream import EditBatch
from ...training.tiny.evaluate import decibels, scores

SSIM_WINDOW = 11
"""Pixels, as in SSIM's paper."""

GRADIENT_STABILITY = 170 / 255**2
"""Of gradient magnitude similarity, for values from 0 to 1: the constant of its paper (Xue et al., 2014)."""


def against_truth(batch: EditBatch, output: torch.Tensor) -> list[dict[str, float]]:
    """For each clip, `training.evaluate`'s scores with SSIM and GMSD. output: [B, 3, T, H, W] in 0..1, of batch.source."""
    found = []
    alike = similarity(output, batch.target, batch.region)
    for score, clip in zip(scores(batch, output), alike):
        row = {"psnr_gt": score.psnr, "psnr_region": score.region, "progress": score.progress, "edit_accuracy": score.right}
        found.append(row | {f"{name}_gt": clip[name] for name in ("ssim", "gmsd")} | {"ssim_region": clip["ssim_region"]})
    return found


def copied(batch: EditBatch) -> list[dict[str, float]]:
    """The same of the source left as it is."""
    names = {"psnr_gt": "psnr_copy", "psnr_region": "psnr_copy_region", "ssim_gt": "ssim_copy", "gmsd_gt": "gmsd_copy"}
    return [{new: clip[old] for old, new in names.items()} for clip in against_truth(batch, batch.source)]


def against_full(output: torch.Tensor, full: torch.Tensor) -> list[dict[str, float]]:
    """For each clip, how close the output is to that of full attention, both [B, 3, T, H, W] in 0..1."""
    found = []
    for made, wanted, clip in zip(output, full, similarity(output, full)):
        psnr = decibels((made.float() - wanted.float()).square().mean())
        found.append({"psnr_vs_full": psnr, "ssim_vs_full": clip["ssim"], "gmsd_vs_full": clip["gmsd"]})
    return found


# Without TF32, in which the rounding of large squares hides SSIM's small variances.
@torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
def similarity(output: torch.Tensor, wanted: torch.Tensor, region: torch.Tensor | None = None) -> list[dict[str, float]]:
    """{"ssim", "gmsd"} of each clip, frame by frame; with `region` [B, 1, T, H, W] also SSIM within it. Clips as above."""
    found = []
    for index, clips in enumerate(zip(output, wanted)):
        one, other = (clip.float().transpose(0, 1) for clip in clips)  # frames as a batch of images
        alike = ssim(one, other, SSIM_WINDOW).mean(1)
        found.append({"ssim": alike.mean().item(), "gmsd": gradient_deviation(one, other)})
        if region is not None:
            found[-1]["ssim_region"] = alike[region[index, 0]].mean().item()
    return found


def gradient_deviation(one: torch.Tensor, other: torch.Tensor) -> float:
    """Gradient magnitude similarity deviation of images [T, 3, H, W] in 0..1, averaged: 0 for equal ones, more for worse.

    A perceptual measure without a network: what it weighs is how unevenly edges are damaged.
    """
    one, other = (_gradient_magnitude(images) for images in (one, other))
    similar = (2 * one * other + GRADIENT_STABILITY) / (one.square() + other.square() + GRADIENT_STABILITY)
    return similar.flatten(1).std(1, correction=0).mean().item()


def _gradient_magnitude(images: torch.Tensor) -> torch.Tensor:
    """Prewitt gradients at half size, as in GMSD's paper."""
    luma = F.avg_pool2d(rgb_to_grayscale(images), 2)
    across = luma.new_tensor([1.0, 0.0, -1.0]).expand(3, 3) / 3
    return F.conv2d(luma, torch.stack([across, across.T])[:, None], padding=1).square().sum(1).sqrt()


def by_task(tasks: list[str], clips: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """{task: number of clips, mean of every measure, standard error of `psnr_gt_change`}, with "all"."""
    groups = defaultdict(list)
    for task, clip in zip(tasks, clips):
        groups[task].append(clip)
        groups["all"].append(clip)
    found = {}
    for task, group in sorted(groups.items()):
        error = standard_error([clip["psnr_gt_change"] for clip in group])
        found[task] = {"clips": len(group), **means(group), "psnr_gt_change_se": error}
    return found


def means(clips: list[dict[str, float]]) -> dict[str, float]:
    return {name: fmean(clip[name] for clip in clips) for name in clips[0]}


def standard_error(values: list[float]) -> float | None:
    """Standard error of the mean; None for a single value."""
    return stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
