"""Run every kernel on small layouts under NVIDIA's compute-sanitizer.

    python scripts/sanitize.py [--tools memcheck racecheck synccheck] [--out FILE]

The sharp group runs on our own kernels and the residual on plain matrix products, so that it is these that are checked
and no library's attention. Exits with 1 when a tool finds something, with 2 when there is no compute-sanitizer or GPU.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path


def child():
    import torch
    from liveditor_isa.isa_core import ISAConfig, TokenLayout, in_context_sparse_attention
    from torch.nn.attention import SDPBackend, sdpa_kernel

    layout = TokenLayout(200, (130, 64))
    generator = torch.Generator("cuda").manual_seed(0)

    def plain(q, k, v):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return (torch.softmax(q @ k.transpose(2, 3) * q.shape[3] ** -0.5, -1) @ v).transpose(1, 2)

    def call(dense, config, dim=64, grad=False):
        # An offset of one element keeps bulk copies away from the second half of the calls.
        for offset in (0, 1):
            base = torch.randn(4, 1, layout.total, 2, dim + 8, generator=generator, device="cuda").bfloat16()
            q, k, v, weight = (x[..., offset : dim + offset] for x in base)
            gate = torch.rand(1, layout.total, 1, 1, generator=generator, device="cuda").bfloat16()
            leaves = [x.detach().requires_grad_(grad) for x in (q, k, v)]
            out = in_context_sparse_attention(*leaves, layout=layout, config=config, coarse_gate=gate, dense=dense)
            if grad:
                torch.autograd.grad(out, leaves, weight)
            assert out.isfinite().all()

    with sdpa_kernel(SDPBackend.MATH):
        for dense in ("triton", "8bit"):
            call(dense, ISAConfig(0.5, 0.4, 0.3))
        call("triton", ISAConfig(0.5, 0.4, 0.3, sharpness="top_mass", context_tail="taylor"), dim=96)
        call(plain, ISAConfig(0.5, 0.4, 0.3), grad=True)
    torch.cuda.synchronize()
    print("all calls made")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", nargs="+", default=["memcheck", "racecheck", "synccheck"])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--timeout", type=int, default=300, help="seconds for one tool")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child()
        return 0
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        print("compute-sanitizer is not on the PATH: it comes with NVIDIA's CUDA toolkit.")
        return 2
    subprocess.run([sys.executable, __file__, "--child"], check=True)  # compiles the kernels, without the tool's slowness
    found = {}
    for tool in options.tools:
        command = [sanitizer, "--tool", tool, "--print-limit", "20", sys.executable, __file__, "--child"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=options.timeout)
        except subprocess.TimeoutExpired:
            found[tool] = {"result": f"no result after {options.timeout} s"}
        else:
            summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (.*)", done.stdout)
            found[tool] = {
                "result": summary[-1] if summary else "no summary",
                "all_calls_made": "all calls made" in done.stdout,
            }
            found[tool]["kernels"] = sorted(set(re.findall(r"\bin (\w+)|hazard.* at (\w+)", done.stdout)))[:20]
            if not clean(found[tool]):
                print(done.stdout[-4000:])
        print(tool, found[tool], flush=True)
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")
    return 0 if all(map(clean, found.values())) else 1


def clean(result: dict) -> bool:
    return result.get("all_calls_made", False) and re.match(r"0 (errors|hazards)", result["result"]) is not None


if __name__ == "__main__":
    sys.exit(main())
