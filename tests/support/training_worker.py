"""One of several processes that torchrun starts: runs of `liveditor train` over gloo, as the test's file says.

    torchrun --nproc-per-node 2 tests/support/training_worker.py FOLDER

FOLDER/runs.json: {name: {"trains", "steps", "stage", "parallel", ..., "stop": step}}. Each gets the weights as they are at its end.
"""

import json
import sys
from pathlib import Path

import torch.distributed as dist
from liveditor_isa.training import processes
from liveditor_isa.training.editor import loop
from liveditor_isa.training.editor.parallel import whole
from liveditor_isa.training.editor.trainer import Trainer
from safetensors.torch import save_file
from small_training import recipe


def main(folder: Path):
    made, before = [], Trainer.__init__
    Trainer.__init__ = lambda self, *args: made.append(self) or before(self, *args)
    for name, settings in json.loads((folder / "runs.json").read_text(encoding="utf-8")).items():
        loop.run(recipe(folder / "liveditor.safetensors", folder / "pairs", **settings), folder / name, "cpu", progress=False)
        trainer = made[-1]
        weights = {key: whole(weight.detach()).contiguous() for key, weight in zip(trainer.names, trainer.weights)}
        if not dist.is_initialized() or dist.get_rank() == 0:
            save_file(weights, folder / name / "weights.safetensors")
        processes.join = lambda device: device  # for the next runs: they share the first one's group
    processes.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
