"""One of several processes that torchrun starts: LIVEditor-tiny in diffusers' context parallelism against itself alone.

    torchrun --nproc-per-node 2 tests/parallel_worker.py FOLDER

Writes {case: relative error} into FOLDER, one file per process. On CPUs over gloo, on GPUs over NCCL.
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig
from liveditor_isa.checkpoint.included import path_of
from liveditor_isa.isa_core import ISAConfig
from liveditor_isa.pipelines.attention import attach_isa
from liveditor_isa.pipelines.context_reuse import sampling_run
from liveditor_isa.pipelines.parallel import share_gpus
from liveditor_isa.pipelines.transformer import LIVEditorTransformer3DModel
from torch.distributed.device_mesh import init_device_mesh

GPU = torch.cuda.is_available()
RANK = int(os.environ["RANK"])
DEVICE = torch.device("cuda", RANK) if GPU else torch.device("cpu")
REFERENCES = {"even": (16, 10), "odd": (18, 10)}
"""Latent sizes of a reference image, with which two processes can share all tokens equally, and cannot."""


def inputs(reference):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=generator).to(DEVICE)

    latent, context = random(1, 16, 3, 14, 26), random(1, 16, 3, 14, 26)
    return latent, torch.tensor([637.0], device=DEVICE), random(1, 32, 256), [context, random(1, 16, 1, *reference)]


def share(model):
    """On CPUs diffusers does not do it by itself: it asks for the accelerator."""
    if GPU:
        return share_gpus(model)
    torch.accelerator.device_count = lambda: 2
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (1, 2), mesh_dim_names=("ring", "ulysses"))
    model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2, mesh=mesh))


def main(folder: Path):
    model = LIVEditorTransformer3DModel.from_single_file(path_of("diffusion_model"), torch.float32).to(DEVICE)
    cases = {name: inputs(size) for name, size in REFERENCES.items()}

    def outputs():
        found = {f"{name} full": model(*case).sample for name, case in cases.items()}
        isa = attach_isa(model, ISAConfig(), min_tokens=0)
        found |= {f"{name} ISA": model(*case).sample for name, case in cases.items()}
        assert "attention calls at" in isa.report()
        isa.context_refresh = 1
        for name, (latent, timestep, *rest) in cases.items():
            with sampling_run():
                model(latent, timestep, *rest)
                found[f"{name} reuse"] = model(0.9 * latent, 0.9 * timestep, *rest).sample
        assert "computed in 2 of 4 model calls" in isa.report()
        isa.detach()
        return found

    with torch.no_grad():
        alone = outputs()
        share(model)
        together = outputs()
    errors = {name: ((together[name] - out).norm() / out.norm()).item() for name, out in alone.items()}
    differ = ((alone["even ISA"] - alone["even full"]).norm() / alone["even full"].norm()).item()
    (folder / f"{RANK}.json").write_text(json.dumps({"errors": errors, "ISA against full": differ}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
