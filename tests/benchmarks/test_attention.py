"""The attention benchmark without a GPU: its inputs, its errors, what it does about absent variants, its conclusions, its plots."""

import json
import math

import pytest
import torch
from liveditor_isa.benchmarks import machine
from liveditor_isa.benchmarks.attention import (
    errors,
    frontier,
    inputs,
    peers,
    plot,
    shared_lists,
    sweep,
    targets,
    timing,
    variants,
)
from liveditor_isa.benchmarks.attention import table as attention
from liveditor_isa.benchmarks.machine import ROOT
from liveditor_isa.isa_core import TokenLayout, add_coarse_residual

ON_CPU = {"device": "cpu", "dtype": torch.float32}


@pytest.mark.parametrize(
    "layout", [TokenLayout(1), TokenLayout(70, (70, 33)), inputs.half_context(2047), TokenLayout(5, (1, 300))]
)
def test_structured_inputs_have_any_length_and_repeat(layout):
    first, again = (inputs.structured(layout, heads=2, **ON_CPU) for _ in range(2))
    other = inputs.structured(layout, heads=2, seed=1, **ON_CPU)
    for a, b, c in zip(first, again, other):
        assert a.shape == (1, layout.total, 2, 128) and a.isfinite().all()
        assert torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize(
    "tokens, grid", [(32760, (21, 30, 52)), (42840, (21, 34, 60)), (1, (1, 1, 1)), (7, None), (8192, None), (16384, None)]
)
def test_a_grid_holds_its_tokens_with_few_places_left(tokens, grid):
    found = inputs.grid_for(tokens)
    assert grid in (None, found)
    assert tokens <= math.prod(found) <= max(tokens + 3, 1.02 * tokens)


def test_structured_inputs_are_as_their_description_says():
    layout = inputs.half_context(4096)
    statistics = [inputs._statistics(layout, head, 40, queries=64) for head in (0, 20)]
    (_, _, broad_keys, broad_top, _, _), (_, _, sharp_keys, sharp_top, _, _) = statistics
    assert broad_keys > 10 * sharp_keys and broad_top < 0.5 < sharp_top
    _, k, v = inputs.one_head(layout, 20, 40)
    assert k.mean(0).norm() > k.std(0).norm(), "a large key offset, as 8-bit formats meet it"
    assert v.mean(0).norm() > 0.3 * v.std(0).norm()
    target, context = (x - x.mean(0) for x in k.split(2048))
    same_place = (target * context).sum() / (target.norm() * context.norm())
    assert same_place > 0.5 > (target * context.roll(1024, 0)).sum() / (target.norm() * context.norm())
    assert len(inputs.describe(inputs.half_context(256), heads=4, queries=8)) == 6


def test_exact_rows_are_full_attention():
    layout = TokenLayout(150, (90,))
    q, k, v = inputs.random(layout, heads=3, dim=16, **ON_CPU)
    rows = errors.sample_rows(layout, blocks=2)
    assert (rows < 150).sum() in (64, 22) and (rows >= 150).sum() in (64, 26)
    full = torch.nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2).double() for x in (q, k, v))).transpose(1, 2)
    exact = errors.exact_rows(q, k, v, rows)
    assert errors.relative(exact, full[0, rows]) < 1e-6
    wrong = full.clone()
    wrong[:, 150:] *= 1.1
    found = errors.errors_vs_full(wrong, exact, rows, layout)
    assert found["err_vs_full_target"] < 1e-6 < 0.01 < found["err_vs_full"] < 0.1


def test_an_output_with_nan_is_no_result():
    out = torch.ones(2, 3, 4)
    out[0, 0, 0] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        errors.relative(out, torch.ones(2, 3, 4))


def test_kernel_error_against_the_oracle():
    for kind in ("random", "structured"):
        assert errors.kernel_error(variants.isa(backend="torch"), errors.oracle(kind, device="cpu")) < 5e-3


def test_what_cannot_run_is_skipped_with_its_reason(monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "sageattention", None)
    makers = {
        "sageattention": variants.VARIANTS["sageattention"],
        "absent dense": lambda: variants.isa(backend="torch", dense="none"),
    }
    bench = variants.Bench(makers | {"works": lambda: variants.isa(backend="torch")})
    q = torch.randn(1, 100, 1, 16)
    layout = TokenLayout(100)
    outputs = {name: bench.attempt(name, lambda run=run: run(q, q, q, layout)) for name, run in list(bench.running.items())}
    assert list(bench.running) == ["works"] and outputs["works"].shape == q.shape and outputs["absent dense"] is None
    assert "sageattention" in bench.skipped["sageattention"]
    assert bench.skipped["absent dense"].startswith("ValueError: dense must be")
    assert "skipped absent dense: ValueError" in capsys.readouterr().out


def test_a_reason_is_one_line():
    assert variants.reason(RuntimeError("\nCUDA out of memory.\nmore")) == "CUDA out of memory."
    assert variants.reason(KeyError("q")) == "KeyError: 'q'"
    assert variants.reason(RuntimeError()) == "RuntimeError: "


def test_kernels_are_told_apart_by_name():
    names = {
        "_sparse": "sparse_ms", "_dense": "dense_ms", "_dense_8bit": "dense_ms", "_gather": "prep_ms", "_quantize": "prep_ms",
        "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16": "dense_ms",
        "void pytorch_flash::flash_fwd_kernel<...>": "dense_ms", "void at::native::elementwise_kernel<...>": "prep_ms",
    }  # fmt: skip
    assert {name: timing.part_of(name) for name in names} == names


def test_flops_of_the_sparse_kernel():
    assert attention.sparse_flops(inputs.half_context(65520)) == 4 * 128 * 40 * 512 * 64 * (36 * 64 + 576)


def test_the_frontier_holds_what_nothing_beats():
    points = [(0.1, 40), (0.05, 60), (0.06, 70), (0.1, 50), (0.2, 30), (0.05, 80)]
    assert sweep.frontier(points) == [(0.2, 30), (0.1, 40), (0.05, 60)]


def test_latency_at_an_error_is_interpolated_and_never_extrapolated():
    points = [(0.4, 10.0), (0.1, 40.0)]
    assert sweep.ms_at_error(points, 0.2) == pytest.approx(20.0)
    assert sweep.ms_at_error(points, 0.1) == 40.0
    assert sweep.ms_at_error(points, 0.9) == 10.0
    assert sweep.ms_at_error(points, 0.09) is None
    assert sweep.ms_at_error([], 0.1) is None


def swept(name, error, ms, **settings):
    row = {"variant": name, "settings": settings, "tokens": 65520, "inputs": "structured"}
    return row | {"err_vs_full": error, "err_vs_full_target": error / 2, "ms": ms}


SWEPT = [
    swept("sweep-isa-bf16", 0.4, 10.0, keep_ratio=0.125),
    swept("sweep-isa-8bit", 0.1, 40.0, keep_ratio=1),
    swept("sweep-sol-attn", 0.2, 30.0, tau=1.3),
    swept("sweep-sol-attn", 0.3, 20.0, tau=2.0),
]


def test_ratio_at_equal_error():
    assert sweep.equal_error(SWEPT) == {"error": 0.2, "sol_attn_ms": 30.0, "interpolated": 1.5, "measured": 0.75}
    out_of_reach = [*SWEPT[:2], swept("sweep-sol-attn", 0.01, 30.0, tau=1.3)]
    assert sweep.equal_error(out_of_reach)["interpolated"] is None
    assert sweep.equal_error(SWEPT[:2]) is None


def measured(variant, tokens, ms, inputs="random", **more):
    return {"variant": variant, "tokens": tokens, "inputs": inputs, "ms": ms, **more}


ROWS = [
    measured("sdpa-cudnn", 32768, 32.0),
    measured("sdpa-cudnn", 65520, 150.0),
    measured("sdpa-cudnn", 85680, 256.0),
    measured("isa-paper-bf16", 32768, 10.0),
    measured("isa-paper-bf16", 85680, 85.0),
    measured(
        "isa-paper-bf16", 65520, 48.0, vs_cudnn=3.12, rel_err=2.3e-3, extra_gb=1.2, first_call_s=4.0,
        prep_ms=2.0, dense_ms=40.0, sparse_ms=5.0, sparse_tflops=386,
    ),
    measured("isa-paper-bf16-torch", 65520, 200.0, rel_err=2.4e-3),
    measured("isa-paper-8bit", 65520, 40.0, vs_cudnn=3.75, rel_err=9e-3),
    measured("isa-paper-8bit", 65520, 40.0, inputs="structured", rel_err=9e-3, err_vs_bf16=1.1e-2),
]  # fmt: skip


def test_targets_are_met_missed_or_not_measured():
    found = {
        target["what"].split(",")[0]: (target["measured"], target["met"])
        for target in targets.targets(ROWS, sweep.equal_error(SWEPT))
    }
    assert found["ISA bf16"] == (3.12, True)
    assert found["over the release's ISA"] == (1.25, True) and found["over the release's ISA as shipped"] == (1.77, True)
    assert found["ISA with the 8-bit dense group"] == (3.75, False)
    assert found["its error on structured inputs: against the oracle or against bf16"] == (1.1e-2, True)
    assert found["over sol_attn tau 1.3 at equal error on structured inputs (0: not reached)"] == (1.5, True)
    assert found["extra memory"] == (1.2, False)
    assert found["prep"] == (4.3, False)
    assert found["growth 32"] == (1.062, False)
    assert found["first call at another length"] == (None, None)
    assert found["kernel error over a bf16 torch implementation's"] == (0.96, True)
    words = "\n".join(targets.lines(targets.targets([])))
    assert words.count("not measured") == len(targets.targets([]))


def test_a_table_without_kinds_of_inputs_is_read_as_random():
    assert targets.find([{"variant": "sdpa-cudnn", "tokens": 65520, "ms": 150.0}], "sdpa-cudnn")["ms"] == 150.0


@pytest.mark.parametrize(
    "name, slug",
    [("NVIDIA H200", "h200"), ("NVIDIA GeForce RTX 4090", "rtx-4090"), ("AMD Instinct MI300X", "amd-instinct-mi300x")],
)
def test_the_file_is_named_after_the_gpu(name, slug):
    assert attention.gpu_slug(name) == slug


def test_plots_are_drawn_from_a_stored_table(tmp_path):
    table = {"gpu": "NVIDIA H200", "versions": {"torch": "2.11.0"}, "rows": ROWS + SWEPT}
    table["rows"].append(measured("sdpa-cudnn", 65520, 150.0, inputs="structured", err_vs_full=2e-3, err_vs_full_target=2e-3))
    table = json.loads(json.dumps(table))
    latency, error = tmp_path / "new folder/latency.png", tmp_path / "error.png"
    assert plot.plot_latency(table, latency) and plot.plot_error(table, error)
    for path in (latency, error):
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size < 150_000
    assert not plot.plot_error(table | {"rows": ROWS}, tmp_path / "none.png")
    assert not plot.plot_latency(table | {"rows": SWEPT}, tmp_path / "none.png") and not (tmp_path / "none.png").exists()


def test_the_page_holds_what_was_measured_of_neighbours():
    results = ROOT / "benchmarks/results"
    frontier, *studies = (
        json.loads(max(results.glob(f"{name}-h200-*.json")).read_text(encoding="utf-8"))
        for name in ("frontier", "fidelity-segment-top-k", "fidelity-error-aware", "fidelity-peers")
    )
    rows = [row for study in studies for row in study["rows"]]
    found = peers.table(frontier, rows)
    assert found in (ROOT / "docs/fidelity.md").read_text(encoding="utf-8")
    assert all(f"| {name} |" in found for name in peers.OURS)


def test_every_neighbour_attends_and_says_what_it_costs():
    """Over a small grid, with LIVEditor's gate: the residual is the same for all, and no cost is above full attention's."""
    layout = TokenLayout(512, (512,))
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 1024, 2, 16, generator=generator) for _ in range(3))
    gate = torch.randn(1, 1024, 1, 1, generator=generator)
    residual = add_coarse_residual(torch.zeros_like(q), q, k, v, gate, layout, 32)
    for name, policy in peers.peers(32).items():
        out, cost = policy(q, k, v, layout, (8, 8, 8))
        gated, _ = policy(q, k, v, layout, (8, 8, 8), gate)
        assert out.shape == q.shape and 0 < float(cost) <= 1.01, name
        assert torch.allclose(gated - out, residual, atol=1e-5), name


def test_two_neighbours_share_a_list_but_never_across_segments():
    layout = TokenLayout(5 * 64, (2 * 64,))
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, layout.total, 2, 16, generator=generator) for _ in range(3))
    exact = shared_lists.masks(q, k, layout, shared_lists.KINDS["one list for two query blocks"], 0.4).exact
    own = shared_lists.masks(q, k, layout, shared_lists.KINDS["own lists"], 0.4).exact
    pairs = [(0, 1), (2, 3), (5, 6)]
    assert all(torch.equal(exact[:, a], exact[:, b]) for a, b in pairs)
    assert torch.equal(exact[:, 4], own[:, 4]) and not torch.equal(exact, own)
    assert torch.equal(exact.sum(2), own.sum(2))
    rows = shared_lists.rows([shared_lists.measure(q, k, v, layout)], {"inputs": "noise"})
    assert len(rows) == len(shared_lists.KINDS) * len(shared_lists.SHARES)
    assert all(row["more"] == 1 for row in rows if row["lists"] == "own lists")


def test_several_calls_are_one_row_of_each_policy():
    def call(error, ms):
        return [
            {
                "policy": "isa",
                "setting": "1",
                "inputs": "recorded",
                "tokens": 64,
                "err_target": error,
                "flop_ratio": 0.5,
                "ms": ms,
            }
        ]

    [row] = frontier.together([call(0.1, 2.0), call(0.3, 1.0)])
    assert row.pop("ms") == 3.0 and row.pop("calls") == 2
    assert row == {name: value for name, value in call(0.2, 0)[0].items() if name != "ms"}


def test_a_results_file_says_what_repeats_it_and_not_where_it_went(monkeypatch):
    monkeypatch.setattr("sys.argv", ["frontier.py", "--seeds", "1", "2", "--out", "/somewhere/else.json", "--tokens", "7"])
    about = machine.heading("liveditor_isa.benchmarks.attention.frontier", "cpu")
    assert about["command"] == "python -m liveditor_isa.benchmarks.attention.frontier --seeds 1 2 --tokens 7"
    assert about["gpu"] == "CPU" and about["versions"]["torch"] == torch.__version__
