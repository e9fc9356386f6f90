"""Ten edits by LIVEditor-tiny, with ISA and context reuse as the first template has them: docs/images/gallery.jpg.

    .venv/bin/python scripts/gallery.py
    .venv/bin/python scripts/gallery.py --blind FOLDER

--blind makes each edit with full attention as well, and writes pictures of source, one and the other in random order: sheet.jpg, and key.json,
which says which is which and how far apart they are. Five styles are of real video, five edits of clips that training never shows. Takes some
five minutes without a GPU, twice that with --blind.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from comfy_headless import CLIP, ROOT, ComfyServer
from liveditor_isa.data.procedural.stream import EditStream
from liveditor_isa.video.mp4 import write_mp4
from PIL import Image, ImageDraw, ImageFont
from thumbnails import videos_of
from tqdm import tqdm
from workflow_api import Workflow

TEMPLATE = ROOT / "example_workflows/1 First edit, without a GPU.json"
SAMPLE = ROOT / ".cache/bigbuckbunny.mp4"
FRAMES, HEIGHT, WIDTH = 17, 176, 320
"""As the template edits."""

STYLES = (
    (CLIP, "Make the video look like sunset"),
    (SAMPLE, "Turn the video into a pencil sketch"),
    (CLIP, "Make it look like night"),
    (SAMPLE, "Turn the video into a cartoon"),
    (SAMPLE, "Give the video a teal and orange look"),
)
DRAWN = (("recolour", 0), ("remove", 1), ("background", 2), ("add", 3), ("swap", 4))
"""(task, number) of clips of `EditStream`'s held-out split, the first of each batch."""

FULL = {"LIVEditorAttachISA": {"enabled": False, "context_refresh": 0}}
COLUMNS, CAPTION, SHOWN = 2, 26, 8
"""SHOWN: number of the frame."""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blind", type=Path, metavar="FOLDER", help="full attention as well, for a comparison without names")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ComfyServer(Path(folder), None) as server:
        wanted = [*STYLES] + [drawn(Path(folder), *which) for which in DRAWN]
        for path in {path for path, _ in wanted}:
            server.add_input(path)
        ways = {"ISA": {}} | ({"full attention": FULL} if options.blind else {})
        rows = []
        for path, instruction in tqdm(wanted, unit="edit"):
            edits = [frames_of(edited(server, path, instruction, changes)) for changes in ways.values()]
            rows.append((instruction, frames_of(path, (WIDTH, HEIGHT)), *edits))
    page(rows).save(ROOT / "docs/images/gallery.jpg", quality=88)
    if options.blind:
        options.blind.mkdir(parents=True, exist_ok=True)
        blind(rows, options.blind)


def drawn(folder: Path, task: str, number: int) -> tuple[Path, str]:
    """(a clip, its instruction)."""
    batch = EditStream(0, 1, FRAMES, HEIGHT, WIDTH, split="held-out", tasks=(task,))[number]
    path = folder / f"{task}.mp4"
    write_mp4(path, [batch.source[0].movedim(0, -1)], Fraction(16))
    return path, batch.instructions[0]


def edited(server: ComfyServer, video: Path, instruction: str, changes: dict) -> Path:
    workflow = Workflow(json.loads(TEMPLATE.read_text(encoding="utf-8")), server.get("/object_info"))
    wanted = {"LoadVideo": {"file": video.name}, "3 · What to change": {"text": instruction}} | changes
    return videos_of(server, workflow, wanted)[0]


def frames_of(video: Path, size: tuple[int, int] | None = None) -> list[Image.Image]:
    """The first FRAMES, of a size (width, height)."""
    with av.open(str(video)) as container:
        pictures = [frame.to_image() for _, frame in zip(range(FRAMES), container.decode(video=0))]
    return [picture.resize(size, Image.Resampling.BICUBIC) for picture in pictures] if size else pictures


def page(rows: list[tuple]) -> Image.Image:
    """Each cell: a frame of the source beside the same of its edit, under the instruction."""
    lines = -(-len(rows) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (2 * WIDTH + 8) - 8, lines * (HEIGHT + CAPTION)), "white")
    for index, (instruction, source, edit, *_) in enumerate(rows):
        put(sheet, index % COLUMNS * (2 * WIDTH + 8), index // COLUMNS * (HEIGHT + CAPTION), instruction, source, edit)
    return sheet


def put(sheet: Image.Image, left: int, top: int, words: str, *clips: list[Image.Image]):
    ImageDraw.Draw(sheet).text((left + 4, top + 5), words, "black", ImageFont.load_default(15))
    for column, clip in enumerate(clips):
        sheet.paste(clip[SHOWN], (left + column * WIDTH, top + CAPTION))


def blind(rows: list[tuple], folder: Path):
    sheet = Image.new("RGB", (3 * WIDTH, len(rows) * (HEIGHT + CAPTION)), "white")
    key, choice = [], random.SystemRandom()
    for index, (instruction, source, isa, full) in enumerate(rows):
        order = choice.sample(("ISA", "full attention"), 2)
        both = [{"ISA": isa, "full attention": full}[name] for name in order]
        put(sheet, 0, index * (HEIGHT + CAPTION), f"{index + 1}. {instruction}", source, *both)
        error = np.mean([np.square(np.float64(one) - np.float64(other)).mean() for one, other in zip(isa, full)])
        key.append({"edit": index + 1, "left": order[0], "right": order[1], "psnr": round(10 * np.log10(255**2 / error), 2)})
    sheet.save(folder / "sheet.jpg", quality=92)
    (folder / "key.json").write_text(json.dumps(key, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
