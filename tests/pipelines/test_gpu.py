"""LIVEditor-tiny's pipeline on a GPU: every way of holding its weights makes the same video, and ISA's kernels run in it."""

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

from liveditor_isa.isa_core import ISAConfig
from liveditor_isa.pipelines.attention import attach_isa
from liveditor_isa.pipelines.pipeline import LIVEditorPipeline

FULL = ISAConfig(keep_ratio=1, dense_query_ratio=1)
FRAMES = torch.rand(9, 3, 112, 208, generator=torch.Generator().manual_seed(0))


def edited(pipe, **options):
    generator = torch.Generator().manual_seed(7)
    size = {"height": 112, "width": 208, "num_inference_steps": 3, "output_type": "latent"}
    return pipe(FRAMES, "Make it night", generator=generator, **size, **options).frames.float().cpu()


def made(dtype=torch.bfloat16):
    pipe = LIVEditorPipeline.included(dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def difference(one, other) -> float:
    return ((one - other).norm() / one.norm()).item()


@pytest.fixture(scope="module")
def usual():
    return edited(made().to("cuda"))


def test_it_is_what_a_cpu_makes():
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    assert difference(edited(made(torch.float32)), edited(made(torch.float32).to("cuda"))) < 1e-3


@pytest.mark.parametrize("way", ["enable_model_cpu_offload", "enable_sequential_cpu_offload", "enable_group_offload"])
def test_offloaded_weights_make_the_same(usual, way):
    pipe = made()
    if way == "enable_group_offload":
        pipe.enable_group_offload(onload_device=torch.device("cuda"), offload_type="leaf_level", use_stream=True)
    else:
        getattr(pipe, way)(device="cuda")
    assert torch.equal(edited(pipe), usual)
    assert next(pipe.transformer.parameters()).device.type in ("cpu", "meta")


def test_weights_kept_in_8_bits_make_nearly_the_same(usual):
    pipe = made().to("cuda")
    pipe.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)
    assert pipe.transformer.blocks[0].ffn.net[2].weight.dtype == torch.float8_e4m3fn
    assert 0 < difference(usual, edited(pipe)) < 0.1


@pytest.mark.parametrize("compiled", [False, True])
def test_isa_runs_its_kernels(usual, compiled):
    pipe = made().to("cuda")
    isa = attach_isa(pipe.transformer, FULL, backend="triton", min_tokens=0)
    if compiled:
        pipe.transformer.compile_repeated_blocks()
    assert difference(usual, edited(pipe)) < 0.03
    assert "on triton (chosen)" in isa.report()
    isa.config = ISAConfig(keep_ratio=0.1, dense_query_ratio=0.1)
    assert difference(usual, edited(pipe)) > 0.03
