"""Opens ComfyUI with this pack, which includes LIVEditor-tiny, and the sample video. Ctrl+C ends it."""

from __future__ import annotations

import sys
import webbrowser

import torch
from comfy_headless import ComfyServer
from demo import BASE, OUTPUT
from setup import SAMPLE_VIDEO

if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8188
    with ComfyServer(BASE, None, "--output-directory", str(OUTPUT), gpu=torch.cuda.is_available(), port=port) as server:
        server.add_input(SAMPLE_VIDEO)
        print(
            f"ComfyUI runs at {server.url}; its log is {server.log_path}. Start with Templates, liveditor_tiny_edit_video. Ctrl+C ends it."
        )
        webbrowser.open(server.url)
        try:
            server.process.wait()
        except KeyboardInterrupt:
            pass
