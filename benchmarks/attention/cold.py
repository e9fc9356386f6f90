"""First calls in a fresh process with an empty Triton cache: the time that a user waits, and a check that a new length is not tuned again.

The process has imported everything, and its inputs are on the GPU, before the first call.
"""

from __future__ import annotations

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

    name, *lengths = sys.argv[1:]
    attention, cache = VARIANTS[name](), Path(os.environ["TRITON_CACHE_DIR"])
    layouts = [inputs.half_context(int(tokens)) for tokens in lengths]
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
