"""LIVEditor's real architecture on one GPU and on several, in diffusers' context parallelism: attention and a whole model call.

    torchrun --nproc-per-node 2 -m liveditor_isa.benchmarks.steps.scaleout
    torchrun --nproc-per-node 2 -m liveditor_isa.benchmarks.steps.scaleout --tokens 65520 --blocks 4 --no-store

Random weights, all 40 transformer blocks, bf16, one model call per step. Every GPU holds all the weights. The network alone and
the one that shares its work have the same weights, and take turns; alone, all GPUs do the same at the same time. A turn takes as
long as it does on the slowest GPU. Three parts:

- "attention": queries, keys and values in, the attention's output out; on several GPUs with the exchange before and after.
- "attention module": with projections, norms, rotation and gate, as in a transformer block.
- "step": a whole model call.

`efficiency` is the time on one GPU over the number of GPUs times the time on those. `rel_error` compares the outputs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

import diffusers
import torch
import torch.distributed as dist

from ...pipelines.attention import attach_isa
from ...pipelines.diffusers_parts import NATIVE, dispatch_attention_fn
from ...pipelines.parallel import local_device, share_gpus
from ...pipelines.stand_in import in_context_attention
from ...pipelines.transformer import LIVEditorTransformer3DModel
from ...runtime.call import ModelCall, within
from ...runtime.torchrun import Process, is_first, this_process
from ..attention.inputs import half_context
from ..attention.timing import once
from ..machine import gpu_slug, heading, result_file

LATENTS = {65_520: (21, 60, 104), 85_680: (21, 68, 120), 131_072: (16, 128, 128)}
"""Of the edit and as many of the video to edit, by tokens of both: 81 frames at 832×480 and 960×544, 61 at 1024×1024."""

CUDNN = "_native_cudnn"
PARTS = ("attention", "attention module", "step")


def network(blocks: int) -> LIVEditorTransformer3DModel:
    """Random weights that keep activations near 1."""
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    with local_device():
        model = LIVEditorTransformer3DModel(num_layers=blocks)
    torch.set_default_dtype(default)
    return model.requires_grad_(False).eval()


def shared(model: LIVEditorTransformer3DModel) -> LIVEditorTransformer3DModel:
    """The same weights in a network that shares its work among all GPUs."""
    with torch.device("meta"):
        other = LIVEditorTransformer3DModel(**{name: value for name, value in model.config.items() if name[0] != "_"})
    other.load_state_dict(model.state_dict(), assign=True)
    other.rope = model.rope.__class__(other.config.attention_head_dim, other.config.patch_size, other.config.rope_max_seq_len)
    other = other.to(local_device()).requires_grad_(False).eval()
    share_gpus(other)
    return other


class Calls:
    """The timed functions of one network at one length."""

    def __init__(self, model: LIVEditorTransformer3DModel, tokens: int):
        self.model = model
        generator = torch.Generator(local_device()).manual_seed(1)

        def random(*shape):
            return torch.randn(shape, generator=generator, device=local_device(), dtype=torch.bfloat16)

        latent, context = (random(1, 16, *LATENTS[tokens]) for _ in range(2))
        text = random(1, 512, model.config.text_dim)
        self.arguments = latent, torch.tensor([700.0], device=local_device()), text, [context]
        self.layout = half_context(tokens)
        hidden, self.rotary = random(1, tokens, 5120), model.rope(latent, context)
        heads = [random(1, tokens, 40, 128) for _ in range(3)]
        gate = random(1, tokens, 1, 1)
        self.hidden, self.heads = self.mine(hidden), [self.mine(each) for each in heads]
        self.gate = gate

    def mine(self, whole: torch.Tensor) -> torch.Tensor:
        """This GPU's share of a sequence."""
        if self.model._parallel_config is None:
            return whole
        return whole.chunk(dist.get_world_size(), dim=1)[dist.get_rank()].contiguous()

    def step(self):
        return self.model(*self.arguments, return_dict=False)[0]

    def call(self) -> ModelCall:
        """Attention with the attached ISA."""
        _, timestep, text, contexts = self.arguments
        return self.model.call_over(self.layout, timestep, text, contexts)

    def module(self):
        return within(self.call(), self.model.blocks[0].attn1, self.hidden, None, None, self.rotary)

    def attention(self):
        processor = self.model.blocks[0].attn1.processor
        with in_context_attention(processor, self.call(), 0, processor.of_blocks, self.gate):
            return dispatch_attention_fn(*self.heads, backend=NATIVE, parallel_config=processor._parallel_config)

    def all(self) -> dict:
        return dict(zip(PARTS, (self.attention, self.module, self.step)))


def slowest(call) -> float:
    """Milliseconds on the slowest GPU."""
    dist.barrier()
    taken = torch.tensor([once(call)], device=local_device())
    dist.all_reduce(taken, dist.ReduceOp.MAX)
    return taken.item()


def whole(part: str, out: torch.Tensor) -> torch.Tensor:
    """The output over all tokens, gathered from the GPUs' shares."""
    if part == "step":
        return out
    shares = [torch.empty_like(out) for _ in range(dist.get_world_size())]
    dist.all_gather(shares, out.contiguous())
    return torch.cat(shares, dim=1)


def measure(one: Calls, several: Calls, turns: int, attention: str, rows: list, tokens: int):
    # A step of full attention at these lengths takes longer than all the rest together.
    for part in PARTS if attention == "ISA" else PARTS[:-1]:
        alone, together = one.all()[part], several.all()[part]
        expected, found = alone(), whole(part, together())
        error = ((found - expected).float().norm() / expected.float().norm()).item()
        del expected, found
        torch.cuda.empty_cache()
        times = [(slowest(alone), slowest(together)) for _ in range(turns)]
        medians = [statistics.median(each) for each in zip(*times)]
        for gpus, ms, taken in zip((1, dist.get_world_size()), medians, zip(*times)):
            efficiency = medians[0] / (gpus * ms)
            row = {"part": part, "attention": attention, "gpus": gpus, "tokens": tokens, "ms": round(ms, 2)}
            row |= {"ms_range": [round(min(taken), 2), round(max(taken), 2)], "efficiency": round(efficiency, 3)}
            rows.append(row | ({} if gpus == 1 else {"rel_error": float(f"{error:.2e}")}))
            if is_first():
                print("  ", rows[-1], flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[65_520, 131_072], choices=list(LATENTS))
    parser.add_argument("--blocks", type=int, default=40)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--no-full", action="store_true", help="leave out full attention")
    parser.add_argument("--no-store", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if not torch.cuda.is_available() or (this_process() or Process()).count < 2:
        sys.exit(
            "benchmarks/steps/scaleout.py needs several GPUs: torchrun --nproc-per-node 2 -m liveditor_isa.benchmarks.steps.scaleout"
        )
    torch.cuda.set_device(local_device())
    one = network(options.blocks)
    several = shared(one)
    gpu = torch.cuda.get_device_name()
    about = heading(__spec__.name, launcher=("torchrun", "--nproc-per-node", str(dist.get_world_size())))
    about["versions"]["diffusers"] = diffusers.__version__
    result = {
        **about,
        "blocks": options.blocks,
        "rows": [],
    }
    path = options.out or result_file(f"scaleout-{gpu_slug(gpu)}")
    for tokens in options.tokens:
        for attention in ("ISA", "full, cuDNN")[: 1 if options.no_full else 2]:
            for model in (one, several):
                model.set_attention_backend("native" if attention == "ISA" else CUDNN)
                if attention == "ISA":
                    attach_isa(model, min_tokens=0)
                elif attached := getattr(model, "attached_isa", None):
                    attached.detach()
            if is_first():
                print(f"{tokens:,} tokens, {attention}", flush=True)
            with torch.no_grad():
                calls = Calls(one, tokens), Calls(several, tokens)
                measure(*calls, options.turns, attention, result["rows"], tokens)
            del calls
            torch.cuda.empty_cache()
            if is_first() and not options.no_store:
                path.write_text(json.dumps(result, indent=2) + "\n")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
