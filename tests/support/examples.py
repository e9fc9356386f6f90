"""The example workflows at a size that takes seconds, and what tests look for in their runs."""

import time

from comfy_headless import ROOT

EXAMPLES = ROOT / "example_workflows"
SMALL = {
    "LIVEditorLoad": {
        "diffusion_model": "liveditor_tiny.bin",
        "text_encoder": "umt5_tiny.safetensors",
        "vae": "wan_tiny_vae.safetensors",
    },
    "LoadVideo": {"file": "bigbuckbunny.mp4"},
    "LIVEditorInContextReferences": {"size": "custom", "size.width": 160, "size.height": 96, "length": 9},
    "LIVEditorAttachISA": {"min_tokens": 0},
    "KSampler": {"steps": 2},
}
"""What the tests change in the workflow: the stand-in's files, and a size that takes seconds."""


def changed(**by_type) -> dict:
    """SMALL with further changes: changed(KSampler={"seed": 1})."""
    return {kind: {**SMALL.get(kind, {}), **by_type.get(kind, {})} for kind in {**SMALL, **by_type}}


def fresh() -> dict:
    """SMALL with a seed that no run before had, so that the server has nothing cached."""
    return changed(KSampler={"seed": time.time_ns() % 2**32})


def video_file(server, run):
    """The mp4 that a run saved."""
    saved = next(output["images"][0] for output in run.outputs.values() if "images" in output)
    return server.base / "output" / saved["subfolder"] / saved["filename"]


def fails_with(server, prompt, *words):
    """The run ends in one sentence that holds all `words`, and leaves no file."""
    outputs = sorted((server.base / "output").rglob("*.mp4"))
    run = server.run(prompt)
    assert run.error, "the run should have failed"
    for word in words:
        assert word in run.error, run.error
    assert "\n" not in run.error and run.error.rstrip().endswith((".", ")"))
    assert sorted((server.base / "output").rglob("*.mp4")) == outputs
    assert not list((server.base / "output").rglob("*.partial*"))
