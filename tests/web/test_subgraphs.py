"""Core's own blueprints become the same prompt on the page and in `scripts/workflow_api.py`."""

import json

from browser_page import prompt_of
from comfy_headless import COMFYUI
from workflow_api import Workflow

BLUEPRINTS = (
    "Color Curves", "Edge-Preserving Blur", "Glow", "Image Edit (Bernini-R)", "Pose to Video (LTX 2.0)", "Text to Image (Ernie Image)",
    "Video Inpaint (VOID)",
)  # fmt: skip
"""With nested subgraphs, reroutes, promoted widgets of old and new pages, and options of the page's own. All of core's were
compared once: where two subgraphs number a node alike, the page gives one another number."""


def without_titles(prompt: dict) -> dict:
    return {name: {key: value for key, value in node.items() if key != "_meta"} for name, node in prompt.items()}


def test_blueprints_are_taken_apart_as_the_page_does_it(page_of_many, info):
    page = page_of_many
    for path in (COMFYUI / f"blueprints/{name}.json" for name in BLUEPRINTS):
        saved = json.loads(path.read_text(encoding="utf-8"))
        page.evaluate("blueprint => window.app.loadGraphData(blueprint)", saved)
        page.wait_for_function("count => window.app.graph.nodes.length === count", arg=len(saved["nodes"]), timeout=60_000)
        assert without_titles(prompt_of(page)) == without_titles(Workflow(saved, info).prompt()), path.stem
