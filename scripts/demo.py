"""Edits a real video end to end: an example workflow, on a real ComfyUI server, without a window.

    make demo
    .venv/bin/python scripts/demo.py --set "3 · What to change.text=Turn the video into a pencil sketch"
    .venv/bin/python scripts/demo.py --workflow "example_workflows/2 LIVEditor-14B.json" --models ComfyUI/models --gpu \\
        --video holiday.mp4 --set "3 · What to change.text=Let it snow"

The first two use LIVEditor-tiny and a clip, which come with this pack.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import av
from comfy_headless import CLIP, ROOT, ComfyServer, PromptRefused
from PIL import Image, ImageOps
from tqdm import tqdm
from workflow_api import Workflow

WORKFLOW = ROOT / "example_workflows/1 First edit, without a GPU.json"
BASE, OUTPUT = ROOT / ".cache/comfyui-base", ROOT / "output"


def main():
    options = arguments()
    changes = {"LoadVideo": {"file": options.video.name}}
    for title, name, value in options.set:
        changes.setdefault(title, {})[name] = value

    shown = options.workflow.relative_to(ROOT) if options.workflow.is_relative_to(ROOT) else options.workflow
    print(f"Starting ComfyUI with {shown}")
    with ComfyServer(BASE, options.models, "--output-directory", str(OUTPUT), gpu=options.gpu) as server:
        server.add_input(options.video)
        saved = json.loads(options.workflow.read_text(encoding="utf-8"))
        workflow = Workflow(saved, server.get("/object_info"))
        for title, values in changes.items():
            for name, value in values.items():
                print(f"  {workflow.title(workflow.find(title))}: {name} = {value}")
        try:
            run = server.run(workflow.prompt(changes), saved, Progress(workflow))
        except PromptRefused as error:
            sys.exit(f"ComfyUI refused the workflow: {error}")
        for node, lines in run.texts.items():
            print(f"  {workflow.title(workflow.node(node))}: {lines[-1]}")
        if run.error:
            sys.exit(f"The run failed: {run.error}")
    report(run, options.video)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workflow", type=Path, default=WORKFLOW, help="a workflow saved by the page")
    parser.add_argument("--video", type=Path, default=CLIP, help="the video to edit")
    parser.add_argument("--models", type=Path, help="a models folder; without it, there is only what the pack includes")
    parser.add_argument("--gpu", action="store_true", help="run on the GPU")
    parser.add_argument("--set", type=setting, action="append", default=[], metavar="NODE.INPUT=VALUE", help="change an input")
    return parser.parse_args()


def setting(text: str) -> tuple[str, str, object]:
    target, equals, value = text.partition("=")
    node, dot, name = target.partition(".")
    if not (equals and dot and node and name):
        raise argparse.ArgumentTypeError(f'"{text}" is not of the form NODE.INPUT=VALUE')
    try:
        return node, name, json.loads(value)
    except json.JSONDecodeError:
        return node, name, value


class Progress:
    """One line per node that reports progress."""

    def __init__(self, workflow: Workflow):
        self.workflow, self.bars = workflow, {}

    def __call__(self, node, value, maximum):
        title = self.workflow.title(self.workflow.node(node))
        if node not in self.bars:
            self.bars[node] = tqdm(
                total=maximum, desc=f"  {title}", bar_format="{desc}: {percentage:3.0f}% |{bar:30}| {elapsed}"
            )
        bar = self.bars[node]
        bar.update(value - bar.n)
        if value >= maximum:
            bar.close()


def report(run, source: Path):
    saved = next(output["images"][0] for output in run.outputs.values() if "images" in output)
    path = OUTPUT / saved["subfolder"] / saved["filename"]
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        sound = f"{container.streams.audio[0].codec_context.name} sound" if container.streams.audio else "no sound"
        tags = " and ".join(sorted(set(container.metadata) & {"prompt", "workflow"}))
        facts = (
            f"{video.width}×{video.height}, {video.frames} frames, {float(video.average_rate):g} fps, {sound}, carries {tags}"
        )
    print(f"\nEdited video: {path.resolve()}\n  {facts}")
    print(f"Before and after: {before_and_after(source, path).resolve()}")


def before_and_after(source: Path, edited: Path, columns: int = 3, height: int = 288) -> Path:
    """Frames of both at the same times, the source's above; a JPEG beside the edited video. height: of one frame, in pixels."""
    after = frames(edited)
    chosen = [round(column * (len(after) - 1) / (columns - 1)) for column in range(columns)]
    before = frames(source, until=after[-1][0])
    width = round(height * after[0][1].width / after[0][1].height)
    sheet = Image.new("RGB", (columns * width, 2 * height))
    for column, (moment, picture) in enumerate(after[index] for index in chosen):
        original = min(before, key=lambda entry: abs(entry[0] - moment))[1]
        for row, image in enumerate((original, picture)):
            sheet.paste(ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC), (column * width, row * height))
    path = edited.with_suffix(".jpg")
    sheet.save(path, quality=90)
    return path


def frames(path: Path, until: float = float("inf")) -> list[tuple[float, Image.Image]]:
    """(seconds, picture) of each frame up to one second after `until`."""
    found = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            if frame.time > until + 1:
                break
            found.append((frame.time, frame.to_image()))
    return found


if __name__ == "__main__":
    main()
