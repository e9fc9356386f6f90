"""Two processes on CPUs over gloo train as one does: weights sharded by FSDP2, and tokens shared by Ulysses."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from liveditor_isa.training.editor import loop
from liveditor_isa.training.editor.trainer import Trainer
from safetensors.torch import load_file
from small_training import recipe, write_encoded, write_network

pytestmark = pytest.mark.long

SUPPORT = Path(__file__).parents[1] / "support"
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
SPARSE = {"attention": "isa", "min_tokens": 0, "isa": {"block_size": 4, "keep_ratio": 0.5}, "rate": 1e-4}
RUNS = {
    "full": {"trains": "full", "steps": 3, "stage": {"rate": 1e-4}, "optimiser": {"clip": 0.5}},
    "sparse": {"trains": "full", "steps": 3, "stage": SPARSE, "objective": {"drop_context": 0.2, "single_frames": 0.2}},
    "lora": {"trains": "lora", "steps": 3, "stage": {"rate": 1e-4}},
    "new": {"trains": "new", "steps": 3, "stage": SPARSE},
}
CONTEXT = {"parallel": {"context": 2}}
OF_TWO = {
    # Each step's checkpoint is written while the next step runs.
    "full-sharded": RUNS["full"] | {"operation": {"save_every": 1, "log_every": 1}},
    "full-replicas": RUNS["full"] | {"parallel": {"replicas": 2}},
    "sparse-context": RUNS["sparse"] | CONTEXT,
    "sparse-offloaded": RUNS["sparse"] | CONTEXT | {"memory": {"offload_activations": True, "offload_weights": True}},
    "lora-compiled": RUNS["lora"] | {"memory": {"compile": True}},
    "lora-context": RUNS["lora"] | CONTEXT,
    "new-context": RUNS["new"] | CONTEXT,
}


def run(folder: Path, name: str, settings: dict):
    return loop.run(
        recipe(folder / "liveditor.safetensors", folder / "pairs", **settings), folder / name, "cpu", progress=False
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where all runs were, in one process and in two; and the weights of one."""
    folder = tmp_path_factory.mktemp("runs")
    write_network(folder / "liveditor.safetensors")
    # The small ones' tokens do not divide by two.
    write_encoded(folder / "pairs", ((64, 48, 5),) * 4 + ((48, 48, 1),) * 2)
    (folder / "runs.json").write_text(json.dumps(OF_TWO), encoding="utf-8")
    paths = os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *TWO, str(SUPPORT / "training_worker.py"), str(folder)], capture_output=True, encoding="utf-8", timeout=250,
        # Blocks are found and marked, and not compiled: that takes a minute.
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TORCH_COMPILE_DISABLE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def alone(folder):
    """{run: its weights, and the lines of its log} of one process."""
    made, before, found = [], Trainer.__init__, {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "__init__", lambda self, *args: made.append(self) or before(self, *args))
        for name, settings in RUNS.items():
            run(folder, name, settings)
            weights = {key: weight.detach() for key, weight in zip(made[-1].names, made[-1].weights)}
            found[name] = weights, log_of(folder / name)
    return found


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("kind", OF_TWO)
def test_two_processes_train_as_one(folder, alone, kind):
    weights, log = alone[kind.partition("-")[0]]
    together = load_file(folder / kind / "weights.safetensors")
    assert weights.keys() == together.keys()
    for name, weight in weights.items():
        # In shares of one step's length, 1e-4: AdamW makes much of the rounding of a gradient near 0, in single numbers.
        difference = (weight - together[name]).abs() / 1e-4
        assert difference.mean() < 2e-3 and difference.max() < 0.2, (name, difference.mean(), difference.max())
    for one, two in zip(log, log_of(folder / kind), strict=True):
        assert abs(one["loss"] - two["loss"]) < 1e-4 and abs(one["gradient"] / two["gradient"] - 1) < 1e-3


def test_what_two_write_is_what_one_writes_and_one_goes_on_with_it(folder, alone):
    for name, kind, file in (("full", "full-sharded", "liveditor.safetensors"), ("lora", "lora-context", "lora.safetensors")):
        of_one, of_two = (load_file(folder / each / file) for each in (name, kind))
        assert of_one.keys() == of_two.keys() and len(of_one) > 10
        assert all((of_one[key].float() - of_two[key].float()).abs().max() <= 0.01 for key in of_one)
    checkpoint = folder / "full-sharded/checkpoints/step-00000003"
    assert len([*checkpoint.glob("*.distcp")]) == 2
    before = load_file(folder / "full-sharded/liveditor.safetensors")
    went_on = run(folder, "full-sharded", OF_TWO["full-sharded"])
    assert went_on.resumed == 3
    after = load_file(went_on.file)
    assert all((before[key] == after[key]).all() for key in before)
    shutil.rmtree(checkpoint)
    went_on = run(folder, "full-sharded", OF_TWO["full-sharded"])
    assert went_on.resumed == 2
    after = load_file(went_on.file)
    assert all((before[key].float() - after[key].float()).abs().max() <= 0.01 for key in before)
