"""A real ComfyUI server that reads, encodes and writes one video after another, small and without a sampler."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from comfy_headless import ComfyServer, PromptRefused
from setup import MODELS

LONGEST = 120
"""Seconds after which an edit is taken to hang, and the server is ended."""

PROMPT = {
    "load": ("LIVEditorLoad", {
        "diffusion_model": "liveditor_tiny.bin", "text_encoder": "umt5_tiny.safetensors", "vae": "wan_tiny_vae.safetensors",
        "weight_dtype": "default", "bin_checkpoint": "load directly",
    }),
    "text": ("CLIPTextEncode", {"clip": ["load", 1], "text": "snow"}),
    "video": ("LoadVideo", {}),
    "context": ("LIVEditorInContextReferences", {
        "positive": ["text", 0], "negative": ["text", 0], "vae": ["load", 2], "video": ["video", 0],
        "size": "custom", "size.width": 64, "size.height": 32,
    }),
    "decode": ("LIVEditorDecodeVideo", {
        "samples": ["context", 2], "vae": ["load", 2], "filename_prefix": "read", "crf": 30, "fps": 0.0, "draft": True,
    }),
}  # fmt: skip


def edit(server: ComfyServer, path: Path, length: int = 9, fps: float = 0.0, whole_frame: bool = False) -> str | None:
    """What the server says against a video, None where it wrote one. The stand-in models have to be in its models folder.

    Raises RuntimeError when the server is gone, or was ended for taking too long.
    """
    watch = threading.Timer(LONGEST, server.process.kill)
    watch.start()
    prompt = {node: {"class_type": kind, "inputs": dict(inputs)} for node, (kind, inputs) in PROMPT.items()}
    # Core remembers what it read by the file's name.
    name = f"{time.time_ns()}{path.suffix}"
    copy = shutil.copy(path, server.base / "input" / name)
    prompt["video"]["inputs"]["file"] = name
    prompt["context"]["inputs"] |= {"length": length, "fps": fps}
    prompt["decode"]["inputs"]["whole_frame"] = whole_frame
    try:
        run = server.run(prompt)
        written = [server.base / "temp" / entry["filename"] for entry in run.outputs.get("decode", {}).get("images", ())]
        assert run.error or all(file.stat().st_size for file in written) and written, (
            f"{path} gave neither a video nor a sentence"
        )
        for file in written:
            file.unlink()
        return run.error
    except PromptRefused as error:
        if set(error.details["node_errors"]) != {"video"}:
            raise
        return str(error)
    except Exception as error:
        try:
            status = server.process.wait(5)
        except subprocess.TimeoutExpired:
            raise error from None  # it is alive
        raise RuntimeError(
            f"The server ended, or was ended after {LONGEST} s, with {status}: {server.log()[-2000:]}"
        ) from error
    finally:
        watch.cancel()
        Path(copy).unlink()


class VideoServer(ComfyServer):
    """With the stand-in models, in a temporary folder; starts again after its end."""

    def __init__(self):
        self._folder = tempfile.TemporaryDirectory()
        super().__init__(Path(self._folder.name), MODELS)

    def __exit__(self, *error):
        super().__exit__(*error)
        self._folder.cleanup()
