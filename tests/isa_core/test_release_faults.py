"""Each known fault of LIVEditor's public release, as a test that an implementation with the fault would fail."""

import json
import math
import subprocess
import sys

import pytest
import torch
from liveditor_isa.isa_core import ISAConfig, TokenLayout, in_context_sparse_attention
from liveditor_isa.isa_core.layout import block_table
from liveditor_isa.isa_core.reference import reference_attention


def run(q, k, v, layout, config):
    return in_context_sparse_attention(q, k, v, layout=layout, config=config, backend="torch")


def test_pooled_logits_above_every_exact_logit_are_rescaled():
    """Fault: the running maximum moves on, the pooled accumulators stay in the old scale.

    Half the queries of each block point at block 0, fewer and weaker ones at block 3; the block's mean prefers block 0,
    so for the others the pooled logit of block 3 exceeds all logits they attend exactly.
    """
    layout, dim = TokenLayout(64 * 4), 64
    generator = torch.Generator().manual_seed(0)
    k = torch.randn(1, layout.total, 1, dim, generator=generator) * 0.05
    v = torch.randn(1, layout.total, 1, dim, generator=generator)
    q = torch.zeros_like(k)
    k[:, :64, 0, 0] += 8
    k[:, 192:, 0, 1] += 8
    q[:, 0::2, 0, 0], q[:, 1::2, 0, 1] = 40, 20
    config = ISAConfig(keep_ratio=0, dense_query_ratio=0, exact_ratio=0.25)

    logits = (q[0, 1, 0] @ k[0, :, 0].T / math.sqrt(dim)).view(4, 64)
    assert logits[3].mean() > logits[0].max() + 10, "the case must be the adversarial one"
    expected, lists = reference_attention(q, k, v, layout, config)
    assert lists[0, 0]["exact"][0] == [0]
    out = run(q, k, v, layout, config)
    assert (out - expected).norm() / expected.norm() <= 1e-5
    torch.testing.assert_close(out[0, 1, 0], v[0, 192:, 0].mean(0), atol=1e-3, rtol=1e-3)


def test_a_ragged_block_weighs_its_true_length():
    """Fault: the last block counts as 64 tokens and its mean is divided by 64."""
    layout = TokenLayout(64 + 2)
    q = torch.zeros(1, 66, 1, 64)
    v = torch.zeros_like(q)
    v[:, 64:] = 1.0
    out = run(q, q, v, layout, ISAConfig(keep_ratio=0, dense_query_ratio=0, exact_ratio=0))
    torch.testing.assert_close(out, torch.full_like(out, 2 / 66))  # weight 64 gives 1/2, mean over 64 slots less still

    k = torch.zeros_like(q)
    k[:, 64:], q[:] = 1.0, 1.0  # with a key mean divided by 64 the ragged block would lose its higher logit, 8 against 0
    out = run(q, k, v, layout, ISAConfig(keep_ratio=0, dense_query_ratio=0, exact_ratio=0))
    weight = 2 * math.exp(8) / (2 * math.exp(8) + 64)
    torch.testing.assert_close(out, torch.full_like(out, weight))


def test_no_block_straddles_target_and_context():
    """Fault: with T not a multiple of 64, one block holds the end of the target and the start of the context."""
    layout = TokenLayout(100, (100,))
    assert block_table(layout, 64).lengths == (64, 36, 64, 36)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 200, 2, 64, generator=generator) for _ in range(3))
    config = ISAConfig(keep_ratio=0, dense_query_ratio=0.5, exact_ratio=0.5)
    out = run(q, k, v, layout, config)
    v[:, 100:] = 1e4  # values have no part in routing
    assert torch.equal(run(q, k, v, layout, config)[:, :100], out[:, :100]), "context leaks although none is kept"


def test_no_token_is_attended_twice_or_left_out():
    """With equal logits every listed token must get the same share, whatever way it is attended."""
    layout = TokenLayout(100, (28, 64))
    q = torch.zeros(1, layout.total, 1, layout.total)
    v = torch.eye(layout.total)[None, :, None]
    for config in (
        ISAConfig(1, 0, 0.4),
        ISAConfig(1, 1, 0.4),
        ISAConfig(1, 0, 0),
        ISAConfig(0.5, 0.5, 0.4, context_tail="taylor"),
    ):
        shares = run(q, q, v, layout, config).mean((0, 1, 2))
        torch.testing.assert_close(shares, torch.full((layout.total,), 1 / layout.total))


IN_A_FRESH_PROCESS = """
import json, sys, threading, time
class Forbidden:
    def find_spec(self, name, *args):
        if name.split(".")[0] in {"flash_attn", "tilelang", "triton"}:
            raise ImportError(name + " is not installed here")
sys.meta_path.insert(0, Forbidden())
import torch
torch.set_num_threads(2)
from liveditor_isa.isa_core import TokenLayout, in_context_sparse_attention

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) * 1024

def peak_during(call):
    peak, done = [0], threading.Event()
    def watch():
        while not done.wait(0.002):
            peak[0] = max(peak[0], anonymous())
    thread = threading.Thread(target=watch); thread.start()
    call(); done.set(); thread.join()
    return peak[0]

for tokens in (100, 333, 1000):  # new shapes need no tuning and no compiler
    x = torch.randn(1, tokens * 2, 2, 64)
    assert in_context_sparse_attention(x, x, x, layout=TokenLayout(tokens, (tokens,)), backend="torch").isfinite().all()

q, k, v = (torch.randn(1, 16384, 4, 64) for _ in range(3))
before = anonymous()
peak = peak_during(lambda: in_context_sparse_attention(q, k, v, layout=TokenLayout(8192, (8192,)), backend="torch"))
print(json.dumps({"peak": peak, "extra": peak - before, "inputs": 3 * q.nbytes}))
"""


@pytest.mark.slow
def test_memory_stays_bounded_and_nothing_but_torch_is_needed():
    """Faults: full sorts and gathered copies (extra memory 2.7 times inputs and output), hard imports, tuning per shape.

    One process at S = 16,384, H = 4, D = 64 stays under 1.5 GB with everything that Python and torch need themselves.
    """
    done = subprocess.run([sys.executable, "-c", IN_A_FRESH_PROCESS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["peak"] < 1.5e9
    full_scores = 4 * 16384**2 * 4
    assert figures["extra"] < full_scores / 8
