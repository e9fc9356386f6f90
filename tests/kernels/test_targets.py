"""Every kernel compiled, without a GPU, for GPUs that are not at hand: does it build, and fit their shared memory?"""

import json
import os
import subprocess
import sys

import pytest

SHARED = {86: 101_376, 90: 232_448, 120: 101_376}
"""Bytes of shared memory that one program may have (CUDA programming guide, table of compute capabilities)."""


@pytest.mark.slow
@pytest.mark.parametrize("capability", [86, 90, pytest.param(120, marks=pytest.mark.long)])
def test_kernels_compile_and_fit(capability):
    plain = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, __file__, str(capability)], capture_output=True, text=True, env=plain)
    assert done.returncode == 0, done.stderr[-2000:]
    used = json.loads(done.stdout)
    assert {"_sparse", "_dense", "_lists", "_keys", "_means"} <= {name for name, _ in used}
    assert max(size for _, size in used) <= SHARED[capability], used


def compile_all(capability: int):
    """Print [kernel, bytes of shared memory] of each launch that one call of every kernel makes."""
    import torch
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    class NoGPU:
        """Tells Triton for what to compile; nothing is launched."""

        get_current_device = get_current_stream = staticmethod(lambda *_: 0)
        get_current_target = staticmethod(lambda: GPUTarget("cuda", capability, 32))

    used, run = [], JITFunction.run

    def compile_only(self, *args, grid, warmup, **kwargs):
        used.append((self.__name__, run(self, *args, grid=grid, warmup=True, **kwargs).metadata.shared))

    driver.set_active(NoGPU())
    JITFunction.run = compile_only

    from liveditor_isa import kernels
    from liveditor_isa.kernels import backward, budget, coarse, compact, dense, pool, quantize, select, sparse, sparse_8bit

    bulk_copies = lambda x: capability >= 90  # noqa: E731
    sparse.takes_bulk_copies = dense.takes_bulk_copies = sparse_8bit.takes_bulk_copies = bulk_copies
    dense.shared_memory = lambda _: SHARED[capability]

    def call(dim, block_size=64, blocks=8, listed=4, heads=2, dtype=torch.bfloat16, second_order=False):
        zeros = lambda *shape, dtype=torch.int32: torch.zeros(shape, dtype=dtype)  # noqa: E731
        q, k, v, out, grad = (zeros(1, blocks * block_size, heads, dim, dtype=dtype) for _ in range(5))
        table = zeros(blocks), zeros(blocks), block_size
        means = [pool.pool_blocks(x, *table) for x in (q, k, v)]
        logits = coarse.coarse_logits(*means[:2])
        coarse.coarse_statistics(logits, blocks // 2, None)
        coarse.coarse_statistics(logits, blocks // 2, 2)
        sharp, rows = select.top_blocks(logits[:, 0], listed)
        lists, full, taken = select.exact_lists(logits, rows, sharp, table[1], block_size, 2, listed)
        tail = [x[:, :listed].to(dtype) for x in means[1:]]
        gate, log_sum = zeros(1, q.shape[1], 1, 1, dtype=dtype), zeros(1, heads, q.shape[1], dtype=torch.float32)
        counts = torch.full_like(full, 2)
        lists = lists, full, counts, taken, *table[:2]
        sparse.sparse_attention(
            q, k, v, *tail, logits[:, 0, :listed], sharp, *lists, out, gate, means[0], block_size, log_sum, tail[0] if second_order else None
        )  # fmt: skip
        number = zeros(heads)
        query, key, value = (compact.gather_blocks(x, number, rows, None, listed * block_size, *table) for x in (q, k, v))
        bias = zeros(heads, -(-len(key) // dense.TILE) * dense.TILE, dtype=torch.float32)
        result = dense.dense_attention(query, key, value, bias, number)
        compact.scatter_blocks(result, out, number, rows, *table, gate, means[0])
        if block_size <= 64 and dtype == torch.bfloat16:
            means = [x.to(dtype) for x in means]
            common = lists[0], counts, taken, rows, *table[:2], out, log_sum, grad, block_size
            backward.sparse_attention_backward(q, k, v, *means[1:], sharp, *common)
            backward.spread_means(means[0].float(), q, *table)
        if capability >= 89 and dtype == torch.bfloat16:
            centre = torch.zeros(heads, dim)
            eight = quantize.quantize_queries(q, number, rows, *table)
            eight += quantize.quantize_keys(k, centre, number, rows, *table)
            eight += quantize.quantize_values(v, centre, number, rows, *table)
            query, q_scale, key, k_scale, value, v_scale = eight
            dense.dense_attention_8bit(query, key, value, q_scale, k_scale, v_scale, centre, bias, number, dtype)
        if capability >= 89 and dtype == torch.bfloat16 and block_size == sparse_8bit.BLOCK:
            every = torch.arange(blocks, dtype=torch.int32).expand(heads, -1).contiguous()
            key, k_scale = quantize.quantize_keys(k, centre, number, every, *table)
            value, v_scale = quantize.quantize_values(v, centre, number, every, *table)
            errors = budget.expected_errors(
                logits, logits[:, :, 0], *means[:2], sharp.expand(heads, blocks), centre[0, :blocks]
            )
            threshold = budget.kth_of_all(errors.flatten()[None], 2)
            marks = budget.lists_above(errors, threshold, rows, table[1], block_size, listed)
            exact, full, counts, _, taken = marks
            sparse_8bit.sparse_attention_8bit(
                q, key, value, k_scale, v_scale, centre, *tail, logits[:, 0, :listed], 0, exact, full, counts, taken, *table[:2], out, gate, means[0]
            )  # fmt: skip

    call(128)
    call(128, block_size=kernels.LARGEST_BLOCK, second_order=True)
    if SHARED[capability] < kernels.FP32_BYTES:
        call(64, dtype=torch.float32)
    print(json.dumps(used))


if __name__ == "__main__":
    compile_all(int(sys.argv[1]))
