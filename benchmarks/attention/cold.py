"""First calls in a fresh process with an empty Triton cache: the time that a user waits, and a check that a new length is not tuned again.

    TRITON_CACHE_DIR=EMPTY_FOLDER python -m liveditor_isa.benchmarks.attention.cold "ISA" 65520 32768

benchmarks.attention.table starts that for each variant. The process has imported everything, and its inputs are on the GPU, before the first call.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def first_calls(names: list[str], tokens: int, other_tokens: int) -> dict[str, dict]:
    """{variant: {"first_call_s", "first_call_new_length_s", "new_length_compiled"}}; "first_call_error" for one that cannot run.

    Processes run side by side where there are cores for it: a first call is compilation, on one core.
    """
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 4)) as pool:
        return dict(zip(names, pool.map(lambda name: _in_fresh_process(name, tokens, other_tokens), names)))


def _in_fresh_process(name: str, tokens: int, other_tokens: int) -> dict:
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, "-m", __spec__.name, name, str(tokens), str(other_tokens)]
        done = subprocess.run(command, env=os.environ | {"TRITON_CACHE_DIR": cache}, capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    said = [line for line in done.stderr.splitlines() if line.strip()]
    error = next(
        (line for line in reversed(said) if re.match(r"[\w.]*Error: ", line)),
        said[-1] if said else f"exit status {done.returncode}",
    )
    print(f"no cold first call of {name}: {error}", flush=True)
    return {"first_call_error": error}


def main():
    import torch

    from . import inputs
    from .variants import VARIANTS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variant", choices=VARIANTS, metavar="VARIANT", help=f"one of {', '.join(VARIANTS)}".replace("%", "%%"))
    parser.add_argument("tokens", type=int, help="of the first call")
    parser.add_argument("other_tokens", type=int, help="of the second, another length")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks/attention/cold.py needs a GPU.")
    if "TRITON_CACHE_DIR" not in os.environ:
        parser.error("TRITON_CACHE_DIR is not set: name an empty folder, in which the compiled kernels are counted")
    attention, cache = VARIANTS[options.variant](), Path(os.environ["TRITON_CACHE_DIR"])
    layouts = [inputs.half_context(tokens) for tokens in (options.tokens, options.other_tokens)]
    cases = [inputs.random(layout, heads=40) for layout in layouts]
    seconds, binaries = [], []
    for layout, case in zip(layouts, cases):
        torch.cuda.synchronize()
        start = time.perf_counter()
        attention(*case, layout, inputs.gate(layout))
        torch.cuda.synchronize()
        seconds.append(round(time.perf_counter() - start, 3))
        binaries.append(len(list(cache.rglob("*.cubin"))))
    first, second = seconds
    compiled = binaries[1] - binaries[0]
    print(json.dumps({"first_call_s": first, "first_call_new_length_s": second, "new_length_compiled": compiled}))


if __name__ == "__main__":
    main()
