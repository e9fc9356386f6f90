"""Thumbnails of the templates: the source beside its edit where LIVEditor-tiny makes it, else the source beside what the template is for.

    .venv/bin/python scripts/thumbnails.py
    .venv/bin/python scripts/thumbnails.py "7 A long video"   (this one alone)

Nothing was edited here with the released weights of the large models, so their thumbnails show no edit. Takes five minutes without a GPU.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import av
from comfy_headless import CLIP, ROOT, ComfyServer
from PIL import Image, ImageDraw, ImageFont, ImageOps
from workflow_api import Workflow

EXAMPLES = ROOT / "example_workflows"
HALF = 320, 360
"""Of a picture beside the other, in pixels."""
LIGHT, DARK = "#e8e8ee", "#33345a"

WORDS = {
    "2 LIVEditor-14B": ["LIVEditor-14B", "32 steps with ISA", "three files, NVIDIA GPU"],
    "3 LIVEditor-14B in 4 steps, with a LoRA": ["LIVEditor-14B", "4 steps", "with a LoRA"],
    "4 LIVEditor-14B in less memory": ["LIVEditor-14B", "fp8 weights", "no kept context"],
    "6 With a reference image": ["LIVEditor-14B", "a video and", "a reference image"],
    "9 Bernini with ISA": ["Bernini", "Wan 2.2 with ISA", "two models"],
    "10 A folder of clips": ["A folder", "each clip edited", "without a GPU"],
}
"""By template: lines of which the first is the largest."""
AB = "8 ISA beside full attention"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = sorted(path.stem for path in EXAMPLES.glob("*.json"))
    parser.add_argument("templates", nargs="*", metavar="TEMPLATE", help=f"one of {', '.join(known)}")
    names = parser.parse_args().templates or known
    if unknown := {*names} - {*known}:
        parser.error(f"there is no template {', '.join(sorted(unknown))}")
    source = frame_of(CLIP)
    edited = [name for name in names if name not in WORDS]
    for name in names:
        if name in WORDS:
            saved(name, source, card(WORDS[name]))
    if not edited:
        return
    with tempfile.TemporaryDirectory() as folder, ComfyServer(Path(folder), None) as server:
        server.add_input(CLIP)
        for name in edited:
            saved_workflow = json.loads((EXAMPLES / f"{name}.json").read_text(encoding="utf-8"))
            videos = videos_of(server, Workflow(saved_workflow, server.get("/object_info")))
            pictures = [frame_of(video) for video in videos]
            saved(name, *(pictures if name == AB else [source, pictures[0]]))


def videos_of(server: ComfyServer, workflow: Workflow, changes: dict[str, dict] | None = None) -> list[Path]:
    """The files that a workflow saves, with changed values of its inputs, in the order of its nodes."""
    run = server.run(workflow.prompt(changes), workflow.saved)
    if run.error:
        raise SystemExit(f"The run failed: {run.error}")
    shown = [run.outputs[node]["images"][0] for node in sorted(run.outputs, key=int) if "images" in run.outputs[node]]
    return [
        server.base / "output" / each["subfolder"] / each["filename"] for each in shown if each["filename"].endswith(".mp4")
    ]


def frame_of(video: Path, number: int = 8) -> Image.Image:
    with av.open(str(video)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index == number:
                return frame.to_image()
    raise ValueError(f"{video} has no frame {number}.")


def card(lines: list[str]) -> Image.Image:
    picture = Image.new("RGB", HALF, DARK)
    draw = ImageDraw.Draw(picture)
    for index, line in enumerate(lines):
        font = ImageFont.load_default(30 if index == 0 else 22)
        draw.text((HALF[0] / 2, HALF[1] / 2 + 44 * (index - (len(lines) - 1) / 2)), line, LIGHT, font, anchor="mm")
    return picture


def saved(name: str, left: Image.Image, right: Image.Image):
    sheet = Image.new("RGB", (2 * HALF[0], HALF[1]))
    for index, picture in enumerate((left, right)):
        sheet.paste(ImageOps.fit(picture, HALF, Image.Resampling.BICUBIC), (index * HALF[0], 0))
    ImageDraw.Draw(sheet).line([(HALF[0], 0), HALF], "white", 2)
    sheet.save(EXAMPLES / f"{name}.jpg", quality=88)
    print(f"{name}.jpg", flush=True)


if __name__ == "__main__":
    main()
