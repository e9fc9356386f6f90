"""A stored fidelity study as Markdown tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .settings import FULL, PAPER

WEIGHTS = {"stage-one": "ISA training-free (weights of stage one)", "final": "ISA after fine-tuning with it (final weights)"}
FINE_TUNED = "-finetuned"

EQUAL_COST = 1.02
"""Largest cost relative to the paper's setting that counts as equal cost."""

NEAR = 0.3
"""dB: the most that the paper's ISA may lose against full attention."""


def row_name(setting: str, weights: str) -> str:
    """As result files call it: ISA on weights that were fine-tuned with it has its own names."""
    return setting + FINE_TUNED * (weights == "final" and setting != FULL)


def base_name(row: dict) -> str:
    return row["setting"].removesuffix(FINE_TUNED)


def rows_of(result: dict, weights: str, task: str = "all") -> dict[str, dict]:
    """{setting: row}."""
    return {base_name(row): row for row in result["rows"] if (row["weights"], row["task"]) == (weights, task)}


def dominating(result: dict, weights: str) -> list[str]:
    """Settings of no more than the paper's cost that are nearer to full attention, and no further from the truth."""
    rows = rows_of(result, weights)
    if PAPER not in rows:
        return []
    paper = rows.pop(PAPER)
    return [
        name
        for name, row in rows.items()
        if name != FULL
        and row["flop_ratio"] <= EQUAL_COST * paper["flop_ratio"]
        and row["psnr_vs_full"] > paper["psnr_vs_full"]
        and row["psnr_gt"] >= paper["psnr_gt"]
        and row["edit_accuracy"] >= paper["edit_accuracy"]
    ]


def table(head: list[str], lines: list[list]) -> list[str]:
    """Markdown; None is a dash."""
    cells = [
        ["–" if cell is None else f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in line] for line in lines
    ]
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *cells)]


def quality_table(result: dict, weights: str) -> list[str]:
    head = ["setting", "FLOP ratio", "PSNR to truth", "change", "edited region", "SSIM to truth", "edits right", "PSNR to full"]
    head += ["SSIM to full", "GMSD to full", "attention error"]
    errors = {row["setting"]: mean_error(row) for row in result["attention"] if row["weights"] == weights}
    lines = []
    for name, row in rows_of(result, weights).items():
        change = None if name == FULL else with_error(row["psnr_gt_change"], row["psnr_gt_change_se"])
        line = [name, f"{row['flop_ratio']:.3f}", f"{row['psnr_gt']:.2f}", change, f"{row['psnr_region']:.2f}"]
        line += [f"{row['ssim_gt']:.3f}", f"{row['edit_accuracy']:.0%}", f"{row['psnr_vs_full']:.1f}"]
        lines.append([*line, f"{row['ssim_vs_full']:.4f}", f"{row['gmsd_vs_full']:.4f}", errors.get(row["setting"])])
    return table(head, lines)


def with_error(value: float, error: float | None) -> str:
    return f"{value:+.2f}" + (f" ± {error:.2f}" if error is not None else "")


def mean_error(row: dict) -> float:
    return float(np.mean(row["target"]))


def task_table(result: dict, weights: str) -> list[str]:
    head = ["task", "clips", "full: PSNR", "edited region", "copy: edited region", "right"]
    head += ["ISA: PSNR", "edited region", "right"]
    tasks = sorted({row["task"] for row in result["rows"] if row["weights"] == weights} - {"all"})
    lines = []
    for task in [*tasks, "all"]:
        rows = rows_of(result, weights, task)
        full, isa = rows[FULL], rows.get(PAPER, {})
        line = [task, full["clips"]] + [full[name] for name in ("psnr_gt", "psnr_region", "psnr_copy_region")]
        line += [f"{full['edit_accuracy']:.0%}", isa.get("psnr_gt"), isa.get("psnr_region")]
        lines.append([*line, f"{isa['edit_accuracy']:.0%}" if isa else None])
    return table(head, lines)


def video_table(result: dict) -> list[str]:
    head = ["setting", "weights", "edits", "FLOP ratio", "PSNR to full", "SSIM to full", "GMSD to full"]
    names = ("weights", "clips", "flop_ratio", "psnr_vs_full", "ssim_vs_full", "gmsd_vs_full")
    return table(head, [[base_name(row), *(row[name] for name in names)] for row in result["video_rows"]])


def premise_table(found: dict) -> list[str]:
    head = ["network block", "attention on the context", "of it on kept blocks", "on the best as many"]
    pairs = list(found["all"]["spearman"])
    head += [f"rank correlation: {pair.replace(' ', ' and ')} error" for pair in pairs]
    lines = []
    for block in [*found["blocks"], found["all"] | {"block": "all"}]:
        shares = [f"{block[name]:.1%}" for name in ("context_share", "kept_share", "best_share")]
        lines.append([block["block"], *shares, *(block["spearman"][pair] for pair in pairs)])
    footers = {"spearman_target": "all, the target's query blocks only", "spearman_pooled": "all, across heads and blocks"}
    for name, words in footers.items():
        lines.append([words, None, None, None, *(found["all"][name][pair] for pair in pairs)])
    return table(head, lines)


def targets(result: dict) -> list[str]:
    """The project's targets beside what was measured: full attention's on weights that were trained with it, ISA's after
    fine-tuning, where both are there.
    """
    trained, tuned = (rows_of(result, weights) for weights in ("stage-one", "final"))
    weights = "stage-one" if trained else "final"
    rows = trained or tuned
    if FULL not in rows:
        return []
    full, isa = rows[FULL], (tuned or trained).get(PAPER)
    tasks = [row for row in result["rows"] if (row["setting"], row["weights"]) == (FULL, weights) and row["task"] != "all"]
    right = sum(row["edit_accuracy"] > 0.5 for row in tasks)
    above = full["psnr_region"] - full["psnr_copy_region"]
    lines = [
        f"{_met(right >= 5)}: most edits right for {right} of {len(tasks)} tasks (5 of 7 wanted), full attention, {weights} weights",
        f"{_met(full['psnr_gt'] >= 22)}: PSNR {full['psnr_gt']:.2f} dB on the whole frame (22 wanted)",
        f"{_met(above > 0)}: {above:+.2f} dB over the source left as it is, on the edited region",
    ]
    if isa:
        change = with_error(isa["psnr_gt_change"], isa["psnr_gt_change_se"])
        line = (
            f"{_met(isa['psnr_gt_change'] >= -NEAR)}: the paper's ISA {change} dB to ground truth against full attention "
            f"(−{NEAR} allowed), {isa['weights']} weights, {isa['tokens']:,} tokens"
        )
        if trained and tuned:
            line += f"; {isa['psnr_gt'] - full['psnr_gt']:+.2f} dB against full attention on the weights of stage one"
        lines.append(line)
    return lines


def _met(reached: bool) -> str:
    return "met" if reached else "**missed**"


def page(result: dict, pictures: list[str]) -> str:
    """The text between the marks of docs/fidelity.md. pictures: their files, relative to it."""
    size = result["size"]
    words = [
        f"{result['gpu']}, {', '.join(f'{name} {version}' for name, version in result['versions'].items())}; "
        f"{size['frames']} frames of {size['width']}×{size['height']}, {size['steps']} steps, {size['clips']} clips of each task; "
        f"`{result['command']}`",
        "",
        *(f"- {line}" for line in targets(result)),
        *(line for picture in pictures for line in ("", f"![{Path(picture).stem}]({picture})")),
    ]
    for weights, title in WEIGHTS.items():
        if not rows_of(result, weights):
            continue
        better = ", ".join(dominating(result, weights)) or "none"
        words += ["", f"### {title}", "", *quality_table(result, weights), ""]
        words += [
            f"At no more than {EQUAL_COST:g} times the paper's cost, nearer to full attention and no further from the truth: {better}.",
            "",
        ]
        words += task_table(result, weights)
    if result["video_rows"]:
        words += ["", "### Real video", "", *video_table(result)]
    for found in result["premises"]:
        words += ["", f"### The premises, {found['weights']} weights", "", *premise_table(found)]
    return "\n".join(words)
