"""What the server says of a damaged video and of a disk on which it cannot write stands on the page, in the page's language."""

import json
import re

import pytest
from browser_page import drop, opened_page, set_widgets
from comfy_headless import ROOT
from examples import EXAMPLES, SMALL

WORDS = json.loads((ROOT / "locales/fr/main.json").read_text(encoding="utf-8"))["LIVEditor"]


@pytest.fixture
def french(browser, server):
    """The French page with the first template, at a size that takes seconds."""
    server.post("/settings", {"Comfy.Locale": "fr"})
    try:
        with opened_page(browser, server, "Vue nodes") as page:
            drop(page, EXAMPLES / "1 First edit, without a GPU.json", "application/json")
            set_widgets(
                page,
                {
                    "LoadVideo": SMALL["LoadVideo"],
                    "LIVEditorInContextReferences": {"size.width": 96, "size.height": 96, "length": 1},
                    "KSampler": {"steps": 1},
                },
            )
            yield page
    finally:
        server.post("/settings", {"Comfy.Locale": "en"})


def run_and_see(page, sentence: str, **values: str):
    """Run, and wait for the sentence; a value is a pattern."""
    text = re.sub(r"\\\{(\w+)\\\}", lambda name: values[name[1]], re.escape(WORDS[sentence]))
    page.get_by_test_id("queue-button").dispatch_event("click")
    page.get_by_text(re.compile(f"^{text}$")).first.wait_for(timeout=120_000)


def test_a_damaged_video(french, server):
    bad = server.base / "input/bad.mp4"
    bad.write_bytes(b"no video at all " * 100)
    set_widgets(french, {"LoadVideo": {"file": bad.name}})
    cause = f"{re.escape(WORDS['it is damaged, or no video'])}: .*bad.mp4"
    run_and_see(
        french,
        "The video cannot be read ({cause}). If a player shows it, convert it to an mp4 with H.264 and load that.",
        cause=cause,
    )
    bad.unlink()


def test_an_output_folder_that_is_none(french, server):
    """As Python says an error of the system: with its number before it."""
    (server.base / "output/a file").write_bytes(b"")
    set_widgets(french, {"LIVEditorDecodeVideo": {"filename_prefix": "a file/x"}})
    run_and_see(
        french,
        "filename_prefix {prefix} cannot be used in the output folder ({cause}): choose another, or make it writable.",
        prefix="'a file/x'",
        cause=".*",
    )
