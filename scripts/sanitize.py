"""Our kernels on small layouts under NVIDIA's compute-sanitizer: bounds, shared-memory races, uninitialised reads, barriers.

    python scripts/sanitize.py [--tools memcheck racecheck initcheck synccheck] [--out FILE.json]

Only our kernels are judged, not those of PyTorch and cuDNN. Every tensor is an allocation of its own, so that reading past
one is seen; after the calls a kernel that reads past its memory shows that memcheck and initcheck see what they should.
Exits with 1 where a tool finds something or did not finish, with 2 where there is no compute-sanitizer or no GPU.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOOLS = {
    # What a filtered-out kernel writes counts as uninitialised, so initcheck watches all of them.
    "memcheck": ["--report-api-errors", "no", "--destroy-on-device-error", "kernel", "--padding", "4096"],
    "racecheck": [],
    "initcheck": [],
    "synccheck": [],
}
PLANTED = "_planted"
SEES_PLANTED = "memcheck", "initcheck"
CALLS_DONE = "calls done: "
TOOLKIT = "/usr/local/cuda/bin"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--out", type=Path, help="write the findings to this JSON file")
    parser.add_argument("--timeout", type=float, default=240, help="seconds for each tool")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child("cuda")
        return 0
    import torch

    sanitizer = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=TOOLKIT)
    if sanitizer is None:
        return refuse("compute-sanitizer is not installed: it comes with NVIDIA's CUDA toolkit")
    if not torch.cuda.is_available():
        return refuse("there is no CUDA GPU here")
    # Compiles the kernels without the slow tools, and shows calls that fail without them.
    code, output, _ = run([sys.executable, __file__, "--child"], options.timeout)
    if code != 0:
        print(output)
        return refuse(f"the calls fail without a tool already (exit status {code})")
    found = {tool: check(sanitizer, tool, options.timeout) for tool in options.tools}
    if options.out:
        version = subprocess.run([sanitizer, "--version"], capture_output=True, text=True).stdout.strip().splitlines()[-1]
        header = {"gpu": torch.cuda.get_device_name(), "sanitizer": version, "torch": torch.__version__}
        options.out.write_text(json.dumps(header | {"tools": found}, indent=2) + "\n")
    return 0 if all(result["clean"] for result in found.values()) else 1


def refuse(reason: str) -> int:
    print(f"Nothing was checked: {reason}.")
    return 2


def check(sanitizer: str, tool: str, timeout: float) -> dict:
    """Run one tool over all calls and print its reports."""
    names = our_kernels()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        options = ["--tool", tool, "--log-file", str(log), "--print-limit", "10000", "--show-backtrace", "no"]
        # The tool must not follow the compilers that Triton starts.
        options += ["--target-processes", "application-only", *TOOLS[tool]]
        if tool != "initcheck":
            options += [part for name in (*names, PLANTED) for part in ("--kernel-name", f"kernel_name={name}")]
        code, output, seconds = run([sanitizer, *options, sys.executable, __file__, "--child"], timeout)
        text = log.read_text(errors="replace") if log.exists() else ""
    result = {"clean": False, "seconds": round(seconds, 1), **judge(text, names)}
    ran = re.search(f"^{CALLS_DONE}(.*)$", output, re.MULTILINE)
    result["kernels"] = json.loads(ran[1]) if ran else []
    problems = []
    if code is None:
        problems.append(f"no end after {timeout:g} s")
    elif ran is None or "SUMMARY" not in text:
        problems.append(f"the calls did not run to their end (exit status {code}): {(text + output).strip()[-1500:]}")
    elif tool in SEES_PLANTED and not result["planted"]:
        problems.append("the planted error was not seen, so nothing it did not report says anything")
    problems += result.pop("broken")
    if result["errors"]:
        problems.append(f"{result['errors']} in our kernels, the first:\n" + "\n".join(result["first"]))
    result |= {"clean": not problems, "problems": problems}
    print(f"{tool}: {'clean' if not problems else '; '.join(problems)}")
    print(f"  {len(result['kernels'])} kernels in {seconds:.0f} s, {result['elsewhere']} reports on other kernels", flush=True)
    return result


def judge(text: str, names: list[str]) -> dict:
    """A tool's log -> how many reports are on kernels of `names`, on the planted one, and on those of other libraries."""
    records = re.split(r"^=========(?= \S)", text, flags=re.MULTILINE)[1:]
    ours, broken, planted, elsewhere = [], [], 0, 0
    for record in records:
        places = re.findall(r"\b(?:at|access at|in) .*", record)
        if not places:
            if re.match(r" (Internal|Fatal|Error:)", record):
                broken.append(record.strip())
            continue
        kernels = set(re.findall(r"[\w:]+", " ".join(places)))
        if PLANTED in kernels:
            planted += 1
        elif kernels & set(names):
            ours.append(re.sub(r"^=+ *", "", record, flags=re.MULTILINE).strip())
        else:
            elsewhere += 1
    return {"errors": len(ours), "planted": planted, "elsewhere": elsewhere, "first": ours[:3], "broken": broken}


def run(command: list[str], timeout: float) -> tuple[int | None, str, float]:
    """(exit status or None after the timeout, output, seconds) of a command and all it starts."""
    start = time.monotonic()
    alone = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=alone, start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=timeout)
        code = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        code = None
    return code, output, time.monotonic() - start


def our_kernels() -> list[str]:
    """Names of all Triton functions of the package, those that kernels call included."""
    from liveditor_isa import kernels
    from triton.runtime.jit import KernelInterface

    modules = [importlib.import_module(f"{kernels.__name__}.{info.name}") for info in pkgutil.iter_modules(kernels.__path__)]
    return sorted({name for module in modules for name, value in vars(module).items() if isinstance(value, KernelInterface)})


def child(device: str):
    """Every kernel at least once, each with bulk copies and with pointers where it has both ways; then the planted error."""
    import torch
    from liveditor_isa.isa_core import ISAConfig, TokenLayout, in_context_sparse_attention

    launched = record_launches()
    layout = TokenLayout(100, (70, 64))
    generator = torch.Generator().manual_seed(0)
    config = ISAConfig(0.5, 0.5, 0.5)

    def stand_in(q, k, v):
        """Plain arithmetic in place of a library's attention, whose kernels no tool follows well."""
        return q + k.mean(1, keepdim=True) * v.mean(1, keepdim=True)

    def call(config, dense, dim=64, training=False):
        shape = 1, layout.total, 2, dim
        # From the host: initcheck follows such copies.
        q, k, v, weight = (torch.randn(shape, generator=generator).bfloat16().to(device) for _ in range(4))
        gate = torch.rand(1, layout.total, 1, 1, generator=generator).bfloat16().to(device)
        leaves = [x.requires_grad_(training) for x in (q, k, v, gate)]
        common = {"layout": layout, "config": config, "backend": "triton", "dense": dense}
        out = in_context_sparse_attention(*leaves[:3], coarse_gate=leaves[3], **common)
        results = [out, *(torch.autograd.grad(out, leaves, weight) if training else ())]
        assert all(x.isfinite().all() for x in results), (config, dense)

    def all_calls():
        call(config, "triton")
        call(config, "8bit")
        call(config, stand_in, training=True)
        call(ISAConfig(0.5, 0.5, 0.5, tail_order=2), "triton")
        for policy in ("error_aware", "segment_top_k"):
            call(ISAConfig(0.5, 0.5, 0.5, policy=policy), "8bit")
            call(ISAConfig(0.5, 0.5, 0.5, policy=policy), stand_in, training=True)

    all_calls()
    call(ISAConfig(0.5, 0.5, 0.5, sharpness="top_mass", context_tail="taylor"), "triton", dim=96)
    call(ISAConfig(0.5, 0.5, 0.5, block_size=24), "triton")
    for module in ("sparse", "dense"):
        importlib.import_module(f"liveditor_isa.kernels.{module}").takes_bulk_copies = lambda x: False
    all_calls()
    if device == "cuda":
        torch.cuda.synchronize()
    print(CALLS_DONE + json.dumps(sorted(launched)), flush=True)
    if device == "cuda":
        plant(torch)


def record_launches() -> set[str]:
    """A set that fills with the names of launched kernels and the ways they were compiled for."""
    from triton.runtime.jit import JITFunction

    launched, launch = set(), JITFunction.run

    def run(self, *args, **kwargs):
        ways = [name for name, value in kwargs.items() if name.isupper() and value is True]
        launched.add(" ".join([self.__name__, *ways]))
        return launch(self, *args, **kwargs)

    JITFunction.run = run
    return launched


def plant(torch):
    """Reads memory that nothing wrote, and beyond its end. A tool may make the driver report that."""
    import triton
    import triton.language as tl

    def _planted(x, out):
        place = tl.arange(0, 64)
        tl.store(out + place, tl.load(x + place) + 1)

    try:
        triton.jit(_planted)[(1,)](torch.empty(16, device="cuda"), torch.zeros(64, device="cuda"))
        torch.cuda.synchronize()
    except RuntimeError as error:
        print(f"planted: {error}")


if __name__ == "__main__":
    sys.exit(main())
