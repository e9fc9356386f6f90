"""Pictures of the real page: each example workflow's thumbnail, the panel of Attach ISA after a run, and a heat map.

    .venv/bin/python scripts/screenshots.py
    .venv/bin/python scripts/screenshots.py 5 Edit a part of the picture   (this one's thumbnail alone)

Needs `scripts/setup.py --browser` and a font with Chinese characters (Debian: fonts-wqy-microhei). LIVEditor-tiny really edits on some of the pictures, which takes three minutes without a GPU.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from comfy_headless import COMFYUI, ROOT, ComfyServer
from PIL import Image
from setup import BROWSER, SAMPLE_VIDEO

if TYPE_CHECKING:
    from playwright.sync_api import Page

EXAMPLES, PANEL, MAPS = ROOT / "example_workflows", ROOT / "docs/images/panel.png", ROOT / "docs/images/heat-map.png"
TINY, AB, MASKED = "1 First edit, without a GPU", "8 ISA beside full attention", "5 Edit a part of the picture"
WIDTH = 960
"""Of a thumbnail, in pixels."""

QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
SETTINGS = {
    "Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": False, "Comfy.RightSidePanel.IsOpen": False, "Comfy.Graph.CanvasInfo": False,
}  # fmt: skip
ABOVE = 60
"""Pixels of the canvas under the page's own bar."""

SHOW = """([margin, above]) => {
    const { nodes } = app.graph, title = 30;
    const box = [0, 1].map(axis => [Math.min(...nodes.map(node => node.pos[axis])) - (axis ? title : 0),
                                    Math.max(...nodes.map(node => node.pos[axis] + node.size[axis]))]);
    const view = app.canvas.ds, { clientWidth, clientHeight } = app.canvas.canvas;
    view.scale = Math.min((clientWidth - 2 * margin) / (box[0][1] - box[0][0]), (clientHeight - 2 * margin - above) / (box[1][1] - box[1][0]));
    view.offset = [margin / view.scale - box[0][0], (margin + above) / view.scale - box[1][0]];
    app.canvas.setDirty(true, true);
    for (const part of ['.side-tool-bar-container', '[class*=minimap]', '.graph-canvas-menu', '.p-buttongroup', '.actionbar-container', '.workflow-tabs-container'])
        for (const element of document.querySelectorAll(part)) element.style.visibility = 'hidden';
    // The bar that says "Graph" lies over the canvas, and its parts have no names of their own.
    for (const button of document.querySelectorAll('button'))
        if (button.textContent.trim() === 'Graph') button.parentElement.style.visibility = 'hidden';
    const corner = app.canvas.canvas.getBoundingClientRect();
    return { x: corner.x, y: corner.y + above, width: (box[0][1] - box[0][0]) * view.scale + 2 * margin, height: (box[1][1] - box[1][0]) * view.scale + 2 * margin };
}"""

NODE_BOX = """() => {
    const node = app.graph.nodes.find(node => node.type === 'LIVEditorAttachISA'), view = app.canvas.ds;
    view.scale = 1.5;
    view.offset = [60 - node.pos[0], 100 - node.pos[1]];
    app.canvas.setDirty(true, true);
    const corner = app.canvas.canvas.getBoundingClientRect();
    return { x: corner.x + 1.5 * 50, y: corner.y + 1.5 * 60, width: 1.5 * (node.size[0] + 20), height: 1.5 * (node.size[1] + 50) };
}"""


def wanted_files() -> list[str]:
    """What the examples name under models/: only their names are on the pictures."""
    saved = [json.loads(path.read_text(encoding="utf-8")) for path in EXAMPLES.glob("*.json")]
    models = [model for workflow in saved for node in workflow["nodes"] for model in node["properties"].get("models", [])]
    return [f"{model['directory']}/{model['name']}" for model in models]


def load(page: Page, name: str):
    saved = (EXAMPLES / f"{name}.json").read_text(encoding="utf-8")
    page.evaluate(
        """async ([text, video]) => {
            const saved = JSON.parse(text);
            for (const node of saved.nodes) if (node.type === 'LoadVideo') node.widgets_values[0] = video;
            await app.loadGraphData(saved);
        }""",
        [saved, SAMPLE_VIDEO.name],
    )
    page.wait_for_timeout(2000)


def run(page: Page, changes: dict):
    """Queue the page's workflow with some of Attach ISA's values changed, and wait for its video."""
    page.evaluate(
        """changes => {
            const node = app.graph.nodes.find(node => node.type === 'LIVEditorAttachISA');
            for (const [name, value] of Object.entries(changes)) node.widgets.find(widget => widget.name === name).value = value;
            window.done = [];
            app.api.addEventListener('executed', event => window.done.push(event.detail));
        }""",
        changes,
    )
    page.get_by_test_id("queue-button").dispatch_event("click")
    page.wait_for_function(
        """() => app.graph.nodes.filter(node => node.type === 'LIVEditorDecodeVideo').every(
            node => window.done.some(({ node: id, output }) => id == node.id && output?.animated))""",
        timeout=300_000,
    )
    page.wait_for_timeout(3000)
    page.evaluate("() => document.querySelectorAll('video').forEach(video => { video.pause(); video.currentTime = 0.5 })")
    page.wait_for_timeout(1000)


def picture(page: Page, clip: dict) -> Image.Image:
    page.wait_for_timeout(500)
    return Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = sorted(path.stem for path in EXAMPLES.glob("*.json"))
    parser.add_argument("workflows", nargs="*", metavar="WORKFLOW", help=f"one of {', '.join(known)}")
    names = parser.parse_args().workflows
    if unknown := {*names} - {*known}:
        parser.error(f"there is no example workflow {', '.join(sorted(unknown))}")

    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        models = Path(folder) / "models"
        for part in ("diffusion_models", "text_encoders", "vae"):
            (models / part).mkdir(parents=True)
        for file in wanted_files():
            (models / file).touch()
        browser = playwright.chromium.launch(executable_path=shutil.which(BROWSER), args=QUIET)
        with ComfyServer(Path(folder), models, gpu=False) as server:
            server.add_input(SAMPLE_VIDEO)
            server.add_input(COMFYUI / "input/example.png")
            server.post("/settings", SETTINGS)
            page = browser.new_page(viewport={"width": 2400, "height": 1600})
            page.goto(server.url)
            page.wait_for_function("window.app?.graph && window.app.extensionManager", timeout=60_000)
            for name in names or known:
                load(page, name)
                if name in (TINY, AB, MASKED):
                    run(page, {})
                image = picture(page, page.evaluate(SHOW, [20, ABOVE]))
                image = image.resize((WIDTH, round(WIDTH * image.height / image.width)), Image.LANCZOS)
                image.save(EXAMPLES / f"{name}.jpg", quality=88)
                print(f"{name}.jpg", flush=True)
            if names:
                return
            load(page, TINY)
            run(page, {"min_tokens": 0, "keep_ratio": 0.25})
            picture(page, page.evaluate(NODE_BOX)).save(PANEL)
            page.locator(".isa-thumbnail").dispatch_event("click")
            page.wait_for_timeout(2000)
            picture(page, page.locator("dialog.isa-maps").bounding_box()).save(MAPS)
            print(PANEL.name, MAPS.name)


if __name__ == "__main__":
    main()
