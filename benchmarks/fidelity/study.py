"""How near ISA is to full attention on the small trained editor, each against full attention on the same clips and noise.

    python -m liveditor_isa.benchmarks.fidelity.study --weights weights --stage-one FOLDER --video .cache/bigbuckbunny.mp4
    python -m liveditor_isa.benchmarks.fidelity.study --weights FOLDER --settings isa-paper isa-taylor-tail --clips 16 --out FILE

Needs ComfyUI, `make setup` fetches it. Measures, for every set of weights: the paper's two premises; ISA's
error in each call of attention; edits of clips that training never shows, against their ground truth; and edits of a real
video. Every setting is stored as soon as it is done. The same command goes on where a run was cut off, and with other
settings adds to the same file. At the end docs/fidelity.md gets the tables and docs/images the plots (fidelity_report.py).

What is compared: fidelity_settings.py; by which measures: fidelity_quality.py; what is looked at inside: fidelity_attention.py.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path

import torch
from tqdm import tqdm

from ...isa_core import ISAConfig
from ...video.geometry import token_count
from ..editor import EDITOR, Editor, held_out, load_editor, real_clip
from ..machine import ROOT, heading, result_file
from . import attention as inside
from . import quality as quality
from .report import report
from .settings import FULL, Override, Setting, settings
from .tables import quality_table, row_name

ASIDE = 10_000
"""Number of the batch for what happens inside, far behind the clips that are judged: the threshold is found on it."""


class Results:
    """The results file: what it holds is not measured again.

    Raises ValueError for a file of other weights or sizes.
    """

    def __init__(self, path: Path, about: dict):
        """about: what all rows share, and the command."""
        self.path, self.began = path, time.perf_counter()
        self.held = {**about, "seconds": 0, "premises": [], "attention": [], "rows": [], "video_rows": []}
        if path.exists():
            self.held = json.loads(path.read_text())
            known = about["weights"] | self.held["weights"]
            if any(self.held[name] != about[name] for name in ("size", "gpu")) or known != known | about["weights"]:
                raise ValueError(f"{path} is of other weights, sizes or devices: move it away, or name another with --out.")
            self.held["weights"] = known
            if about["command"] not in self.held["command"]:
                self.held["command"] += f" && {about['command']}"
        self.seconds_before = self.held["seconds"]

    def premises(self, weights: str) -> dict | None:
        return next((found for found in self.held["premises"] if found["weights"] == weights), None)

    def missing(self, kind: str, weights: str, chosen: dict[str, Setting]) -> dict[str, Setting]:
        """Those of the settings that `kind` does not hold."""
        held = {row["setting"] for row in self.held[kind] if row["weights"] == weights}
        return {name: setting for name, setting in chosen.items() if row_name(name, weights) not in held}

    def add(self, kind: str, rows: list[dict]):
        self.held[kind] += [rounded(row) for row in rows]
        self.held["seconds"] = round(self.seconds_before + time.perf_counter() - self.began)
        self.path.write_text(one_row_a_line(self.held))


def rounded(row: dict) -> dict:
    return {name: float(f"{value:.5g}") if isinstance(value, float) else value for name, value in row.items()}


def one_row_a_line(result: dict) -> str:
    """JSON of hundreds of rows that can still be read."""
    parts = []
    for name, value in result.items():
        text = json.dumps(value)
        if isinstance(value, list) and value:
            text = "[\n" + ",\n".join(f"    {json.dumps(row)}" for row in value) + "\n  ]"
        parts.append(f"  {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def study(results: Results, weights: str, editor: Editor, options):
    """All about one set of weights that the file does not hold yet."""
    aside = held_out(options.size, ASIDE, options.device)
    if results.premises(weights) is None:
        print(f"{weights}: the premises", flush=True)
        config = ISAConfig(block_size=options.block_size)
        found, threshold = inside.premises(editor, aside, options.steps, config)
        results.add("premises", [{"weights": weights, "threshold": threshold, **found}])
    every = settings(results.premises(weights)["threshold"], options.block_size)
    chosen = {name: every[name] for name in options.settings}
    wanted = results.missing("attention", weights, chosen)
    if wanted:
        print(f"{weights}: attention errors of {len(wanted)} settings", flush=True)
        errors = inside.attention_errors(editor, aside, options.steps, wanted)
        results.add(
            "attention", [{"setting": row_name(name, weights), "weights": weights, **row} for name, row in errors.items()]
        )
    chosen = {FULL: every[FULL], **chosen}
    edit_held_out(results, weights, editor, options, results.missing("rows", weights, chosen))
    if options.video:
        edit_video(results, weights, editor, options, results.missing("video_rows", weights, chosen))


def edit_held_out(results: Results, weights: str, editor: Editor, options, wanted: dict[str, Setting]):
    """Clips that training never shows: rows by task."""
    if not wanted:
        return
    batches = [held_out(options.size, number, options.device) for number in range(options.clips)]
    tasks = [task for batch in batches for task in batch.tasks]
    bar = tqdm(total=(1 + len(wanted)) * len(batches), desc=f"{weights}: held-out clips", unit="batch")

    def edited(setting: Setting):
        """(the outputs batch by batch, each clip's measures against ground truth, FLOP ratio)."""
        attention, outputs, measures = Override(setting), [], []
        for batch in batches:
            outputs.append(editor.edit(batch.source, batch.instructions, options.steps, attention))
            measures += quality.against_truth(batch, outputs[-1])
            bar.update()
        return outputs, measures, attention.flop_ratio

    references, full, _ = edited(Setting())
    unedited = [clip for batch in batches for clip in quality.copied(batch)]
    for name, setting in wanted.items():
        bar.set_postfix_str(name)
        outputs, clips, flop_ratio = edited(setting)
        near = [clip for pair in zip(outputs, references) for clip in quality.against_full(*pair)]
        gained = [{"psnr_gt_change": clip["psnr_gt"] - other["psnr_gt"]} for clip, other in zip(clips, full)]
        together = [{**one, **two, **three, **four} for one, two, three, four in zip(clips, unedited, near, gained)]
        common = {"setting": row_name(name, weights), "weights": weights, "tokens": tokens(options.size)}
        found = quality.by_task(tasks, together)
        results.add("rows", [{**common, "task": task, **row, "flop_ratio": flop_ratio} for task, row in found.items()])
    bar.close()
    print("\n".join(quality_table(results.held, weights)), flush=True)


def edit_video(results: Results, weights: str, editor: Editor, options, wanted: dict[str, Setting]):
    """A real video in several styles. It has no ground truth: how near to full attention's, that is all."""
    if not wanted:
        return
    source, instructions = real_clip(options.video, options.size, options.device)
    full = editor.edit(source, instructions, options.steps, Override(Setting()))
    for name, setting in tqdm(wanted.items(), desc=f"{weights}: real video", unit="setting"):
        attention = Override(setting)
        clips = quality.against_full(editor.edit(source, instructions, options.steps, attention), full)
        row = {"setting": row_name(name, weights), "weights": weights, "video": options.video.name, "clips": len(clips)}
        row |= {"tokens": tokens(options.size), **quality.means(clips), "flop_ratio": attention.flop_ratio}
        results.add("video_rows", [row])


def tokens(size: tuple[int, int, int]) -> int:
    """Of target and context together: a patch is 16×16 pixels of four frames, of the first one alone."""
    frames, height, width = size
    return 2 * token_count(frames, width, height)


def about(options, folders: dict[str, Path]) -> dict:
    """What the results file says of a run: where, of what, and at which sizes."""
    return {
        **heading(__spec__.name, options.device),
        "weights": {name: hashlib.sha256((folder / EDITOR).read_bytes()).hexdigest() for name, folder in folders.items()},
        "size": dict(zip(("frames", "height", "width"), options.size))
        | {name: getattr(options, name) for name in ("steps", "clips", "block_size")},
    }


def arguments():
    names = [name for name in settings(threshold=0.0) if name != FULL]
    today = result_file("fidelity")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--weights",
        type=Path,
        default=ROOT / "weights",
        help="folder of the three exported files: trained with full attention, or, with --stage-one, fine-tuned with ISA",
    )
    parser.add_argument("--stage-one", type=Path, help="folder of the network and its text encoder before ISA fine-tuning")
    parser.add_argument("--video", type=Path, help="a real video, or a folder of its frames as pictures")
    parser.add_argument("--settings", nargs="*", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--clips", type=int, default=4, help="held-out clips of each of the seven tasks")
    parser.add_argument("--steps", type=int, default=12, help="of sampling")
    parser.add_argument("--size", type=int, nargs=3, default=(33, 256, 256), metavar=("FRAMES", "HEIGHT", "WIDTH"))
    parser.add_argument("--block-size", type=int, default=64)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=today)
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder of fidelity.md and of images/")
    return parser.parse_args()


def main():
    options = arguments()
    options.size = tuple(options.size)
    folders = {"stage-one": options.stage_one or options.weights}
    if options.stage_one:
        folders["final"] = options.weights
    results = Results(options.out, about(options, folders))
    for weights, folder in folders.items():
        study(results, weights, load_editor(folder, options.weights, options.device), options)
    report(results.held, options.docs)
    print(f"{results.held['seconds']} s; {options.out}")


if __name__ == "__main__":
    main()
