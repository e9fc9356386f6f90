"""Context parallelism: what several processes make together is what one makes alone. On CPUs here, on GPUs where there are two."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).parents[1] / "support/parallel_worker.py"


@pytest.mark.slow
def test_two_processes_make_what_one_makes(tmp_path):
    """Also where the tokens cannot be shared equally; each routes its own heads, and keeps their context."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", WORKER, tmp_path]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert all(error < 1e-4 for each in found for error in each["errors"].values()), found
    assert len(found[0]["errors"]) == 6 and found[0]["ISA against full"] > 1e-2
