"""Two processes on CPUs over gloo train as one does: weights sharded by FSDP2, and tokens shared by Ulysses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from small_training import write_encoded, write_network

SUPPORT = Path(__file__).parents[1] / "support"
WORKER = SUPPORT / "training_worker.py"
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
SPARSE = {"attention": "isa", "min_tokens": 0, "isa": {"block_size": 4, "keep_ratio": 0.5}}
RUNS = {
    "full": {"trains": "full", "stage": {"rate": 1e-4}, "optimiser": {"clip": 0.5}},
    "sparse": {"trains": "full", "stage": SPARSE | {"rate": 1e-4}, "objective": {"drop_context": 0.2, "single_frames": 0.2}},
    "lora": {"trains": "lora", "stage": {"ema": 0.9}},
    "new": {"trains": "new", "stage": {"rate": 1e-4}},
}
CONTEXT = {"parallel": {"context": 2}}


def run(folder: Path, runs: dict, *launcher: str):
    (folder / "runs.json").write_text(json.dumps(runs), encoding="utf-8")
    paths = os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *launcher, str(WORKER), str(folder)], capture_output=True, encoding="utf-8", timeout=500,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where all runs were, in one process and in two."""
    folder = tmp_path_factory.mktemp("runs")
    write_network(folder / "liveditor.safetensors")
    # The small ones' tokens do not divide by two.
    write_encoded(folder / "pairs", ((64, 48, 5),) * 4 + ((48, 48, 1),) * 2)
    run(folder, RUNS)
    of_two = {f"{name}-fsdp": settings for name, settings in RUNS.items()}
    of_two |= {f"{name}-context": settings | CONTEXT for name, settings in RUNS.items()}
    of_two["sparse-offloaded"] = RUNS["sparse"] | CONTEXT | {"memory": {"offload_activations": True, "offload_weights": True}}
    of_two["full-replicas"] = RUNS["full"] | {"parallel": {"replicas": 2}}
    run(folder, of_two, *TWO)
    return folder


KINDS = [f"{name}-{kind}" for name in RUNS for kind in ("fsdp", "context")] + ["sparse-offloaded", "full-replicas"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_as_one(folder, kind):
    name = kind.partition("-")[0]
    alone, together = (load_file(folder / each / "weights.safetensors") for each in (name, kind))
    begun = {"full": 1e-4, "sparse": 1e-4, "lora": 1e-3, "new": 1e-4}[name]
    assert alone.keys() == together.keys()
    worst = max((alone[key] - together[key]).abs().max().item() for key in alone)
    assert worst < 0.02 * begun, worst  # of the length of one step of AdamW
    losses = [
        [json.loads(line)["loss"] for line in (folder / each / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        for each in (name, kind)
    ]
    assert all(abs(one - two) < 1e-4 for one, two in zip(*losses)) and len(losses[1]) == 4


@pytest.mark.slow
def test_what_two_write_is_what_one_writes(folder):
    """And a run goes on with another number of processes."""
    for name, file in (("full", "liveditor.safetensors"), ("lora", "lora.safetensors")):
        alone, together = (load_file(folder / each / file) for each in (name, f"{name}-fsdp"))
        assert alone.keys() == together.keys() and len(alone) > 10
        assert all((alone[key].float() - together[key].float()).abs().max() <= 0.01 for key in alone)
    assert len([*(folder / "full-fsdp/checkpoints/step-00000004").glob("*.distcp")]) == 2
