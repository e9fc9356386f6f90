"""Edits a real video end to end: the example workflow, on a real ComfyUI server, without a window.

    make demo
    .venv/bin/python scripts/demo.py --video holiday.mp4 --set "3 · What to change.text=Let it snow"
    .venv/bin/python scripts/demo.py --gpu --models ComfyUI/models --as-saved

Until trained weights exist, a tiny random model stands in: everything runs for real, but the result is no edit.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import av
from comfy_headless import ROOT, ComfyServer, PromptRefused
from setup import MODELS, SAMPLE_VIDEO
from tqdm import tqdm
from workflow_api import Workflow

WORKFLOW = ROOT / "example_workflows/liveditor_edit_video.json"
BASE, OUTPUT = ROOT / ".cache/comfyui-base", ROOT / "output"

STAND_IN = {
    "LIVEditorLoad": {
        "diffusion_model": "liveditor_tiny.bin",
        "text_encoder": "umt5_tiny.safetensors",
        "vae": "wan_tiny_vae.safetensors",
    },
    "LIVEditorInContextReferences": {"size": "custom", "size.width": 416, "size.height": 240, "length": 33},
    "LIVEditorAttachISA": {"min_tokens": 0},
    "KSampler": {"steps": 6},
}
"""What the demo changes in the workflow: the stand-in's files, and a size that two cores edit in a minute."""


def main():
    options = arguments()
    changes = {} if options.as_saved else {title: dict(values) for title, values in STAND_IN.items()}
    changes.setdefault("LoadVideo", {})["file"] = options.video.name
    for title, name, value in options.set:
        changes.setdefault(title, {})[name] = value

    print(
        f"Starting ComfyUI with {options.workflow.relative_to(ROOT) if options.workflow.is_relative_to(ROOT) else options.workflow}"
    )
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
            print(f"  {workflow.title(workflow.nodes[int(node)])}: {lines[-1]}")
        if run.error:
            sys.exit(f"The run failed: {run.error}")
    report(run)
    if not options.as_saved:
        print("A tiny random model stood in for LIVEditor: the whole job ran, but this is not a meaningful edit.")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workflow", type=Path, default=WORKFLOW, help="a workflow saved by the page")
    parser.add_argument("--video", type=Path, default=SAMPLE_VIDEO, help="the video to edit")
    parser.add_argument("--models", type=Path, default=MODELS, help="a models folder")
    parser.add_argument("--as-saved", action="store_true", help="the workflow's own models, size and steps, not the stand-in's")
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
        title = self.workflow.title(self.workflow.nodes[int(node)])
        if node not in self.bars:
            self.bars[node] = tqdm(
                total=maximum, desc=f"  {title}", bar_format="{desc}: {percentage:3.0f}% |{bar:30}| {elapsed}"
            )
        bar = self.bars[node]
        bar.update(value - bar.n)
        if value >= maximum:
            bar.close()


def report(run):
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


if __name__ == "__main__":
    main()
