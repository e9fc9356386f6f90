"""The whole way to a new style, on a CPU: clips, training pairs, a LoRA of LIVEditor-tiny, an edit of a clip it never saw, and its scores.

    python examples/train/new_style.py FOLDER [--steps 240]

Each step is a command of `liveditor`. Stopped, the same command goes on where it was.
"""

import argparse
import json
import sys
from fractions import Fraction
from pathlib import Path

import thermal
from liveditor_isa.command import main
from liveditor_isa.training import EditStream
from liveditor_isa.video.mp4 import write_mp4

WIDTH, HEIGHT, FRAMES, CLIPS = 128, 80, 9, 32

RECIPE = """\
[model]
start = "tiny"
trains = "lora"

[lora]
rank = 32

[objective]
drop_text = 0.05
single_frames = 0.3

[memory]
micro_batch = 4
checkpointing = false

[operation]
save_every = 100

[[stage]]
steps = {steps}
batch = 4
rate = 1e-3
rate_end = 1e-4
warm_up = 10
ema = 0.98

[[stage.sources]]
path = "triplets"
"""


def liveditor(*words):
    print("liveditor", *words, flush=True)
    if status := main([*map(str, words)]):
        sys.exit(status)


def draw_clips(folder: Path, count: int, split: str) -> list[Path]:
    """Clips of drawn, moving scenes. The held-out split has photographs and objects that the other never shows."""
    folder.mkdir(parents=True, exist_ok=True)
    stream, paths = EditStream(0, 1, FRAMES, HEIGHT, WIDTH, split=split), []
    for number in range(count):
        paths.append(folder / f"clip-{number:02}.mp4")
        if not paths[-1].exists():
            write_mp4(paths[-1], [stream[number].source[0].movedim(0, -1)], Fraction(8), crf=8)
    return paths


def make_pairs(folder: Path):
    """Raw clips to accepted triplets: the clip, and the same in the new style as the target."""
    rows = [
        {"video": path.name, "origin": "drawn", "licence": "Apache-2.0"}
        for path in draw_clips(folder / "clips", CLIPS, "train")
    ]
    (folder / "clips/sources.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = {
        "frames": FRAMES, "fps": 8, "width": WIDTH, "height": HEIGHT, "proposals": 1, "video_candidates": 1, "variants": 1,
        "planner": "thermal", "frame_editor": "thermal", "video_editor": "thermal", "direction": "real-to-synthetic",
    }  # fmt: skip
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    # Of real footage; drawn clips are small, short and alike, and a change of all colours is what is asked for.
    off = [
        word for gate in ("length", "size", "duplicate", "drift", "flicker", "sharpness") for word in ("--gate", f"{gate}=off")
    ]
    run = folder / "data"
    liveditor(
        "data",
        "run",
        folder / "clips/sources.jsonl",
        "--out",
        run,
        "--settings",
        folder / "settings.json",
        "--here",
        "all",
        *off,
    )
    if not (folder / "triplets").exists():
        liveditor("data", "export", run, "native", folder / "triplets", *off)


def edit_and_score(folder: Path):
    """The same edit of clips that were never seen, by LIVEditor-tiny without and with the LoRA."""
    clips = draw_clips(folder / "unseen", 2, "held-out")
    items = []
    for clip in clips:
        right = clip.with_suffix(".right.mp4")
        write_mp4(right, [thermal.thermal(thermal.read_video(clip).frames.float() / 255)], Fraction(8), crf=8)
        items.append(
            {"id": clip.stem, "source": str(clip), "instruction": thermal.INSTRUCTION, "reference": str(right), "task": "style"}
        )
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    for name, lora in {"before": [], "after": ["--lora", folder / "run/lora.safetensors"]}.items():
        edits = folder / name / "edits"
        edits.mkdir(parents=True, exist_ok=True)
        for item in items:
            if not (edits / f"{item['id']}.mp4").exists():
                liveditor("edit", item["source"], item["instruction"], "--out", edits / f"{item['id']}.mp4", *lora)
        liveditor(
            "evaluate", "score", folder / "items.jsonl", "--run", folder / name / "scores", "--edits", edits, "--offline",
            "--metrics", "psnr_reference", "ssim_reference", "psnr_source", "--alignment", "stretch",
        )  # fmt: skip
    liveditor("evaluate", "report", folder / "after/scores", "--against", folder / "before/scores")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=240)
    options = parser.parse_args()
    make_pairs(options.folder)
    (options.folder / "recipe.toml").write_text(RECIPE.format(steps=options.steps), encoding="utf-8")
    liveditor("train", options.folder / "recipe.toml", "--out", options.folder / "run", "--device", "cpu")
    edit_and_score(options.folder)
