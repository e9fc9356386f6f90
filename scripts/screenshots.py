"""Plays a user's first minutes on the real page and keeps their pictures: docs/images/first-minutes.jpg, panel.png and heat-map.png.

    .venv/bin/python scripts/screenshots.py

Opens the first template, runs it, moves a slider in mid-run, looks at the heat map and the comparison, drops the mp4, runs the speed test, and prints
how long each took. Needs `scripts/setup.py --browser`. LIVEditor-tiny really edits, which takes some minutes without a GPU.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from comfy_headless import ROOT, ComfyServer
from PIL import Image, ImageDraw, ImageFont
from setup import BROWSER

if TYPE_CHECKING:
    from playwright.sync_api import Page

TEMPLATE = ROOT / "example_workflows/1 First edit, without a GPU.json"
IMAGES = ROOT / "docs/images"
VIEW = {"width": 1600, "height": 1000}
CELL, CAPTION, COLUMNS = (800, 500), 34, 2
"""Of the contact sheet, in pixels."""

QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
SETTINGS = {
    "Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": False, "Comfy.RightSidePanel.IsOpen": False, "Comfy.Graph.CanvasInfo": False,
    "Comfy.Minimap.Visible": False,
}  # fmt: skip
ATTACH = "app.graph.nodes.find(node => node.type === 'LIVEditorAttachISA')"
DECODE = "app.graph.nodes.find(node => node.type === 'LIVEditorDecodeVideo')"
SHOW_PANEL = f"""() => {{
    const node = {ATTACH}, view = app.canvas.ds, {{ scale, offset }} = view, before = [scale, [...offset]];
    view.scale = Math.min(1.5, 880 / (node.size[1] + 50));
    view.offset = [60 - node.pos[0], 100 - node.pos[1]];
    app.canvas.setDirty(true, true);
    window.backToView = () => ([view.scale, view.offset] = before);
    const corner = app.canvas.canvas.getBoundingClientRect();
    const [x, y] = [corner.x + 50 * view.scale, corner.y + 60 * view.scale];
    return {{ x, y, width: view.scale * (node.size[0] + 20), height: view.scale * (node.size[1] + 50) }};
}}"""
DROP = """([content, name]) => {
    const bytes = Uint8Array.from(atob(content), c => c.charCodeAt(0)), transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, { type: 'video/mp4' }));
    for (const kind of ['dragenter', 'dragover', 'drop'])
        document.querySelector('#graph-canvas').dispatchEvent(new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: transfer }));
}"""


class Session:
    """The page, and the pictures that were taken of it. began: when the user made the first click."""

    def __init__(self, page: Page):
        self.page, self.pictures, self.began = page, [], time.monotonic()

    def keep(self, caption: str):
        self.page.wait_for_timeout(700)
        seconds = round(time.monotonic() - self.began)
        self.pictures.append((f"{caption} ({seconds} s)", Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")))
        print(f"{seconds:>4} s  {caption}", flush=True)

    def set_attach(self, name: str, value: float):
        self.page.evaluate(
            f"([name, value]) => {{ {ATTACH}.widgets.find(each => each.name === name).value = value }}", [name, value]
        )

    def saved_crop(self, path: Path, clip: dict):
        self.page.wait_for_timeout(700)
        Image.open(io.BytesIO(self.page.screenshot(clip=clip))).convert("RGB").save(path)


def play(session: Session, server: ComfyServer):
    page = session.page
    name, saved = TEMPLATE.stem, json.loads(TEMPLATE.read_text(encoding="utf-8"))
    page.evaluate("([saved, name]) => app.loadGraphData(saved, true, true, name, { openSource: 'template' })", [saved, name])
    page.wait_for_function("() => [...document.querySelectorAll('video')].some(video => video.videoWidth)")
    session.keep("The first template, opened")
    page.evaluate(
        """() => {
            window.steps = [];
            window.done = [];
            app.api.addEventListener('liveditor_isa.run', ({ detail }) => detail.type === 'step' && steps.push(detail));
            app.api.addEventListener('executed', ({ detail }) => done.push(detail));
        }"""
    )
    session.set_attach("min_tokens", 0)
    page.get_by_test_id("queue-button").dispatch_event("click")
    page.wait_for_function("() => steps.length >= 4", timeout=300_000)
    session.set_attach("exact_ratio", 0.5)
    page.wait_for_function("() => steps.some(step => step.values.exact_ratio === 0.5)", timeout=300_000)
    session.keep("exact_ratio moved in mid-run")
    page.wait_for_function("() => done.some(each => each.output?.liveditor_video)", timeout=300_000)
    page.wait_for_function("() => [...document.querySelectorAll('video')].filter(video => video.videoWidth).length > 1")
    session.keep("The edit, from the first click on")
    session.saved_crop(IMAGES / "panel.png", page.evaluate(SHOW_PANEL))
    page.evaluate("() => backToView()")

    page.locator(".isa-thumbnail").first.dispatch_event("click")
    page.wait_for_function("() => document.querySelector('.isa-meaning')?.textContent")
    box = page.locator(".isa-picture canvas").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + box["height"] * 0.6)
    session.keep("Heat map: what was attended exactly, and its share under the pointer")
    session.saved_crop(IMAGES / "heat-map.png", page.locator("dialog.isa-maps").bounding_box())
    page.keyboard.press("Escape")

    page.evaluate(f"() => {DECODE}.widgets.find(widget => widget.name === 'compare').callback()")
    page.wait_for_function(
        "() => [...document.querySelectorAll('.isa-compare video')].filter(video => !video.paused).length === 2"
    )
    session.keep("Compare with the source")
    page.keyboard.press("Escape")

    # Before the drop, which opens another workflow.
    page.locator(".isa-presets button", has_text="Speed test").first.dispatch_event("click")
    page.get_by_text("× as fast").first.wait_for(timeout=600_000)
    session.keep("Speed test")

    [video] = page.evaluate("() => done.find(each => each.output?.liveditor_video).output.liveditor_video")
    file = server.base / "output" / video["subfolder"] / video["filename"]
    page.evaluate("() => app.graph.clear()")
    page.evaluate(DROP, [base64.b64encode(file.read_bytes()).decode(), file.name])
    page.wait_for_function("count => app.graph.nodes.length === count", arg=len(saved["nodes"]))
    session.keep("The mp4, dropped on the canvas, is the workflow again")


def contact_sheet(pictures: list[tuple[str, Image.Image]]) -> Image.Image:
    rows = -(-len(pictures) // COLUMNS)
    width, height = CELL
    sheet = Image.new("RGB", (COLUMNS * width, rows * (height + CAPTION)), "#181818")
    draw = ImageDraw.Draw(sheet)
    for index, (caption, picture) in enumerate(pictures):
        x, y = index % COLUMNS * width, index // COLUMNS * (height + CAPTION)
        draw.text((x + 10, y + CAPTION / 2), f"{index + 1} · {caption}", "#eee", ImageFont.load_default(18), anchor="lm")
        sheet.paste(picture.resize(CELL, Image.Resampling.LANCZOS), (x, y + CAPTION))
    return sheet


def main():
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which(BROWSER), args=QUIET)
        with ComfyServer(Path(folder), None, gpu=False) as server:
            server.post("/settings", SETTINGS)
            page = browser.new_page(viewport=VIEW)
            page.goto(server.url)
            page.wait_for_function("window.app?.graph && window.app.extensionManager", timeout=60_000)
            page.wait_for_timeout(2000)
            session = Session(page)
            play(session, server)
            contact_sheet(session.pictures).save(IMAGES / "first-minutes.jpg", quality=85)


if __name__ == "__main__":
    main()
