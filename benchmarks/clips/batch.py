"""A batch job with the included model: 100 clips, two of them corrupt, a worker killed half-way, and the same job again.

python -m liveditor_isa.benchmarks.clips.batch [--clips 100] [--workers 2]

Clips of 5 frames of 96×64, cut from the sample video that `make setup` fetches, edited in two steps. Ends with status 1 unless
every good clip has one video and one record, both corrupt ones are in quarantine, and the second job edits nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import torch

from ...video.clip import open_clip
from ...video.geometry import fit_frames
from ...video.mp4 import write_mp4
from ...video.source import FileSource
from ..machine import SAMPLE_VIDEO

WIDTH, HEIGHT, FRAMES = 96, 64, 5
WORKER = "ray::MapWorker"


def make_clips(folder: Path, count: int) -> Path:
    """The manifest, in `folder`."""
    clip = open_clip(FileSource(str(SAMPLE_VIDEO)), count + FRAMES, 0)
    frames = torch.cat([fit_frames(chunk, WIDTH, HEIGHT)[0] for chunk in clip.chunks()])
    row = {"prompt": "Make the video look like sunset", "width": WIDTH, "height": HEIGHT, "steps": 2}
    rows = [{"video": f"clip_{index:03}.mp4", **row} for index in range(count)]
    for index, row in enumerate(rows):
        write_mp4(folder / row["video"], [frames[index : index + FRAMES]], Fraction(25))
    for index, kept in ((count // 5, 0), (3 * count // 4, 300)):
        path = folder / rows[index]["video"]
        path.write_bytes(path.read_bytes()[:kept] or b"not a video")
    manifest = folder / "clips.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return manifest


def files(folder: Path) -> dict[str, dict[str, int]]:
    """{kind of result: {name of the file: time of writing}}."""
    patterns = {"videos": "*.mp4", "records": "records/*.json", "quarantined": "quarantine/*.json"}
    return {kind: {path.name: path.stat().st_mtime_ns for path in folder.glob(pattern)} for kind, pattern in patterns.items()}


def kill_a_worker() -> bool:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cmdline").read_bytes().startswith(WORKER.encode()):
                os.kill(int(folder.name), signal.SIGKILL)
                return True
        except OSError:
            pass  # removed meanwhile
    return False


def run_job(command: list[str], out: Path, kill_at: int | None = None) -> float:
    """Seconds. kill_at: how many clips are done when a worker is killed."""
    begun, killed = time.monotonic(), kill_at is None
    job = subprocess.Popen(command)
    while job.poll() is None:
        killed = killed or (len(files(out)["records"]) >= kill_at and kill_a_worker())
        time.sleep(0.1)
    if not killed:
        sys.exit("The job was over before a worker could be killed.")
    return time.monotonic() - begun


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        manifest, out = make_clips(Path(folder), options.clips), Path(folder) / "edited"
        command = [sys.executable, "-m", "liveditor_isa", "batch", str(manifest), "--out", str(out)]
        command += ["--workers", str(options.workers)]
        seconds, first = run_job(command, out, kill_at=options.clips // 2), files(out)
        again, second = run_job(command, out), files(out)
    counts = {kind: len(files) for kind, files in first.items()}
    print(f"{counts}, {seconds:.0f} s; again {again:.0f} s, files {'unchanged' if first == second else 'CHANGED'}")
    good = options.clips - 2
    return int(first != second or counts != {"videos": good, "records": good, "quarantined": 2})


if __name__ == "__main__":
    sys.exit(main())
