"""Opens ComfyUI with this pack, which includes LIVEditor-tiny, and the sample video. Ctrl+C ends it."""

from __future__ import annotations

import argparse
import webbrowser

import torch
from comfy_headless import ComfyServer
from demo import BASE, OUTPUT
from setup import SAMPLE_VIDEO

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int, nargs="?", default=8188)
    port = parser.parse_args().port
    with ComfyServer(BASE, None, "--output-directory", str(OUTPUT), gpu=torch.cuda.is_available(), port=port) as server:
        server.add_input(SAMPLE_VIDEO)
        print(
            f"ComfyUI runs at {server.url}; its log is {server.log_path}. Start with Templates, 1 First edit, without a GPU. Ctrl+C ends it."
        )
        webbrowser.open(server.url)
        try:
            server.process.wait()
        except KeyboardInterrupt:
            pass
