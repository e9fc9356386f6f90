"""Memory and speed of a data run's own code: ten thousand drawn pairs through the flow, the batch engine and the gates, without a model.

    python -m liveditor_isa.benchmarks.curation --pairs 10000 --folder /dev/shm --out benchmarks/results/curation-cpu-DATE.json

Each stage's work is replaced by one that draws a record with the scores of such a stage, features of clips included, and writes a small file.
What is left is the code's own: rows, fingerprints, records on disk, verdicts, near duplicates, a second run, the funnel and pairs.jsonl.
Everything is in one process, without Ray. Memory is what the process holds after each thousand records.

What it does not tell: the time of decoding, of models, and of Ray.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random
from unittest.mock import patch

import psutil
import torch

from ..batch.job import Summary
from ..curation import funnel
from ..curation.flow import ALL, STAGES, Flow, Where
from ..curation.outcomes import Work
from ..curation.records import write_pairs
from ..curation.settings import Settings
from ..curation.sources import Source
from ..pipelines.request import ModelChoice
from .machine import heading

PROPOSALS = 4
FEATURES = 1280
"""Of MobileNetV2."""
EVERY = 1000
"""Records between two looks at memory."""
REJECTED = 0.2
"""Of the frames, and of the videos."""

Made = tuple[Path | None, dict]


class Drawn:
    """Work of the stages, and what is seen while it is done: memory holds (stage, records, megabytes)."""

    def __init__(self):
        self.memory: list[tuple[str, int, int]] = []
        self._random, self._count = Random(28), 0

    def of(self, stage: str) -> Callable[[object, Work, Path, bool], Made]:
        make = getattr(self, f"_{stage}")

        def work(tools: object, work: Work, output: Path, progress: bool) -> Made:
            self._count += 1
            if self._count % EVERY == 0:
                self.memory.append((stage, self._count, megabytes()))
            return make(work, output)

        return work

    def _shots(self, work: Work, output: Path) -> Made:
        return None, {"scores": {"seconds": 6.0, "short_side": 720, "licensed": 1}, "fps": 16.0, "shots": [[0.0, 5.1]]}

    def _clips(self, work: Work, output: Path) -> Made:
        generator = torch.Generator().manual_seed(self._random.getrandbits(30))
        features = torch.nn.functional.normalize(torch.randn(FEATURES, generator=generator), dim=0)
        scores = {"cuts": 0, "motion": self._random.uniform(0.1, 3), "brightness": 0.5, "laplacian": 9.0}
        return self._file(output, {"scores": scores, "features": [round(value, 4) for value in features.tolist()]})

    def _plans(self, work: Work, output: Path) -> Made:
        said = {way: [f"{way} {words} " + "of the whole scene " * 3 for words in range(4)] for way in ("forward", "backward")}
        plan = {
            "task": "style",
            "back_task": "style",
            "instruction": said["forward"][0],
            **said,
            "expected": {"style": "sepia"},
        }
        return None, {"scores": {"proposals": PROPOSALS}, "proposals": [plan] * PROPOSALS}

    def _frames(self, work: Work, output: Path) -> Made:
        return self._file(output, self._edit({"present": 30.0, "outside_psnr": 30.0, "style": self._margin()}))

    def _videos(self, work: Work, output: Path) -> Made:
        scores = {"present": 30.0, "outside_psnr": 30.0, "style": self._margin(), "flicker_added": 0.1, "drift": 1.0}
        return self._file(output, self._edit(scores | {"cuts_added": 0, "sharpness": 1.0, "frame_psnr": 30.0}))

    def _triplets(self, work: Work, output: Path) -> Made:
        return self._file(output, {"scores": {}, "shapes": {"context": [16, 21, 60, 104]}})

    def _margin(self) -> float:
        return self._random.random() - REJECTED

    def _edit(self, scores: dict) -> dict:
        tried = {"seed": 0, "scores": scores, "model": "drawn@1"}
        return {**tried, "candidates": [tried, tried], "chosen": 0}

    def _file(self, output: Path, made: dict) -> Made:
        output.write_bytes(b"drawn")
        return output, {"file": output.name, **made}


def sources(folder: Path, count: int) -> Iterator[Source]:
    """As many names of one file."""
    (first := folder / "raw.mp4").write_bytes(b"drawn")
    for number in range(count):
        os.link(first, path := folder / f"raw{number:06}.mp4")
        yield Source(path.stem, str(path), "drawn", "CC0")


def megabytes() -> int:
    return psutil.Process().memory_info().rss >> 20


def run(folder: Path, pairs: int) -> dict:
    (raw := folder / "raw").mkdir()
    flow = Flow(folder / "run", [*sources(raw, pairs // PROPOSALS)], Settings(proposals=PROPOSALS))
    drawn, stages = Drawn(), []

    def each(stage: str, summary: Summary) -> None:
        speed = round(summary.clips / summary.seconds, 1)
        stages.append({"stage": stage, "rows": summary.clips, "seconds": summary.seconds, "rows_a_second": speed})
        print(stages[-1], flush=True)

    model, where = ModelChoice(device="cpu", isa=None), Where(ALL, progress=False)
    before = megabytes()
    with ExitStack() as stack:
        for stage in flow.stages:
            stack.enter_context(patch.object(STAGES[stage], "edit_file", drawn.of(stage)))
            stack.enter_context(patch.object(STAGES[stage], "load", lambda choice: None))
        flow.run(model, where, each=each)
        again, began = Flow(flow.folder, flow.sources, flow.settings), time.perf_counter()
        done_again = sum(summary.edited for summary in again.run(model, where).values())
        second = {"rows_done": done_again, "seconds": round(time.perf_counter() - began, 1)}
    began = time.perf_counter()
    counts = funnel.counts(again)
    written = write_pairs(flow.folder / "pairs.jsonl", funnel.pairs(again))
    report = {"pairs": written, "seconds": round(time.perf_counter() - began, 1), "mb": megabytes()}
    sizes = {
        stage: sum(file.stat().st_size for file in os.scandir(flow.stage_folder(stage) / "records")) for stage in flow.stages
    }
    return {
        "stages": stages,
        "kept": {count.stage: count.kept for count in counts},
        "record_bytes": {count.stage: round(sizes[count.stage] / count.entered) for count in counts},
        "mb_before": before,
        "memory": drawn.memory,
        "second_run": second,
        "funnel_and_pairs": report,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10_000, help="a multiple of 4")
    parser.add_argument(
        "--folder", type=Path, help="where the run lies meanwhile, such as /dev/shm (default: the usual temporary one)"
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found = run(Path(folder), options.pairs)
    found = {
        "what": "the data pipeline's own code on drawn records, without models, videos and Ray; memory: [stage, records of all stages, MB]",
        **heading("liveditor_isa.benchmarks.curation", "cpu"),
        **found,
    }
    print(json.dumps(found, indent=1))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
