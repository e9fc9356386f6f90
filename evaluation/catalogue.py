"""The benches and metrics that there are, by name, and which are taken where nobody chose."""

from __future__ import annotations

from collections.abc import Sequence

from .benches import editverse, five, ive, mini, openve, own, reco, vie
from .benches.bench import Bench
from .items import ItemSet
from .judge.rubrics import PAIR, RUBRICS
from .metrics import METRICS, preference
from .metrics.metric import About, Metric

BENCHES: dict[str, Bench] = {module.BENCH.name: module.BENCH for module in (editverse, ive, vie, five, openve, reco, mini, own)}

USUAL = (
    "psnr_source", "psnr_source_outside", "ssim_source_outside", "lpips_alex_source_outside", "psnr_reference", "psnr_reference_inside",
    "ssim_reference", "lpips_alex_reference", "temporal_flickering", "flicker_added", "vmaf_neg_source", "mobilenet",
)  # fmt: skip
"""Of items that no bench has metrics for."""

OFFLINE = (
    *(name for name in METRICS if name.split("_")[0] in ("psnr", "ssim", "mse")),
    *(name for name in METRICS if name.startswith(("lpips_alex", "lpips_vgg"))),
    "temporal_flickering", "flicker_added", "vmaf_neg_source", "vmaf_neg_reference", "mobilenet",
    "content_similarity", "structure_distance_s", "niqe", "fvd", "five_background", "mini_progress",
)  # fmt: skip
"""Those whose models are no hub's."""


def all_metrics(named: Sequence[Metric] = ()) -> dict[str, Metric]:
    """METRICS, those of single benches, and those of models that the user names."""
    own_ones = {metric.name: metric for bench in BENCHES.values() for metric in bench.own}
    return METRICS | own_ones | {metric.name: metric for metric in named}


def described(named: Sequence[Metric] = ()) -> dict[str, About]:
    """Of all metrics, judges' included, and of those that the user names: for reports."""
    found = {name: About(metric.names, metric.about, metric.higher) for name, metric in all_metrics(named).items()}
    found |= {rubric.name: About(rubric.columns, rubric.about, True) for rubric in (*RUBRICS.values(), PAIR)}
    return found | {preference.NAME: About((preference.NAME, preference.GAIN), "Of a model that the user named.", True)}


def chosen(names: Sequence[str] | None, items: ItemSet, offline: bool, named: Sequence[Metric] = ()) -> list[Metric]:
    """names: metrics, or beginnings of their names that end in *; None for the bench's own, or USUAL. named: those that are taken in any case.

    offline: only those of OFFLINE. Raises ValueError for a name that no metric has, and for one that is not offline.
    """
    known = all_metrics(named)
    bench = BENCHES.get(items.bench)
    if names is None:
        of_bench = bench.metrics if bench else ()
        names = [name for name in (*USUAL, *of_bench) if name in OFFLINE] if offline else of_bench or USUAL
    allowed = {*OFFLINE, *(metric.name for metric in named)} if offline else {*known}
    found = {}
    for name in (*names, *(metric.name for metric in named)):
        matching = [key for key in known if key == name or (name.endswith("*") and key.startswith(name[:-1]))]
        if not matching:
            raise ValueError(f"There is no metric {name!r}: liveditor evaluate metrics lists them.")
        if allowed.isdisjoint(matching):
            raise ValueError(f"The model of {name} is a hub's or torchvision's: leave out --offline, or ask for other metrics.")
        found |= {key: known[key] for key in matching if key in allowed}
    return [*found.values()]
