"""Inputs of blocks that are kept in main memory."""

import pytest
import torch
from liveditor_isa.training.editor.activations import checkpointing
from liveditor_isa.training.editor.settings import Memory

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="copies beside the computation need a GPU")
BLOCKS, TOKENS, WIDTH = 6, 4096, 1024


def gradients(blocks, offload: bool, steps: int = 2) -> tuple[list[torch.Tensor], int]:
    """Of all weights over the steps, and the bytes that the forward pass kept on the GPU."""
    keep = checkpointing(Memory(offload_activations=offload), torch.device("cuda"))
    for weight in blocks.parameters():
        weight.grad = None
    for step in range(steps):
        tokens = torch.randn(TOKENS, WIDTH, device="cuda", generator=torch.Generator("cuda").manual_seed(step))
        before = torch.cuda.memory_allocated()
        for block in blocks:
            tokens = keep(lambda tokens, shared, block=block: block(tokens) * shared, tokens, torch.tensor(0.5, device="cuda"))
        torch.cuda.synchronize()
        kept = torch.cuda.memory_allocated() - before
        tokens.square().mean().backward()
    return [weight.grad.clone() for weight in blocks.parameters()], kept


def test_gradients_are_those_of_inputs_kept_on_the_gpu_and_memory_is_less():
    torch.manual_seed(0)
    blocks = torch.nn.ModuleList(
        torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH), torch.nn.GELU(), torch.nn.Linear(WIDTH, WIDTH))
        for _ in range(BLOCKS)
    ).cuda()
    there, there_bytes = gradients(blocks, offload=False)
    away, away_bytes = gradients(blocks, offload=True)
    assert all(torch.equal(a, b) for a, b in zip(there, away))
    one = TOKENS * WIDTH * 4
    assert there_bytes > (BLOCKS - 1) * one and away_bytes < 3 * one


def test_a_backward_pass_that_never_comes_keeps_nothing():
    block = torch.nn.Linear(WIDTH, WIDTH).cuda()
    keep = checkpointing(Memory(offload_activations=True), torch.device("cuda"))
    before = torch.cuda.memory_allocated()
    for _ in range(5):
        keep(block, torch.randn(TOKENS, WIDTH, device="cuda"))
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() - before < TOKENS * WIDTH * 4
