"""The fidelity study at a size that a CPU takes seconds for: its token order, its measures, the premises, the whole command."""

import json
import math
import shutil
import sys

import numpy as np
import pytest
import torch
from liveditor_isa.benchmarks.editor import EDITOR, ENCODER, EditBatch, held_out, load_editor, real_clip, watch
from liveditor_isa.benchmarks.fidelity import attention as fidelity_attention
from liveditor_isa.benchmarks.fidelity import quality as fidelity_quality
from liveditor_isa.benchmarks.fidelity import reuse_report
from liveditor_isa.benchmarks.fidelity import study as fidelity
from liveditor_isa.benchmarks.fidelity import tables as fidelity_tables
from liveditor_isa.benchmarks.fidelity.report import BEGIN, END
from liveditor_isa.benchmarks.fidelity.settings import FULL, PAPER, Override, Setting, attend, settings
from liveditor_isa.benchmarks.machine import ROOT
from liveditor_isa.data.procedural.stream import EditStream
from liveditor_isa.isa_core import ISAConfig, TokenLayout, dense_attention, estimate_cost
from liveditor_isa.isa_core.policies.tiles import TILE, tile_order
from liveditor_isa.training.tiny import text, vae
from liveditor_isa.training.tiny.editor import EditorSettings, new_editor
from PIL import Image
from safetensors.torch import save_file

SIZE = (5, 32, 48)
LAYOUT = TokenLayout(12, (12,))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder as training leaves it, of random weights that let the input, the gates and attention show in the output."""
    folder = tmp_path_factory.mktemp("weights")
    network, generator = new_editor(EditorSettings(dim=128, ffn_dim=96, blocks=2)), torch.Generator().manual_seed(0)
    for name, weight in network.named_parameters():
        if name == "head.head.weight" or "alpha_1" in name:
            torch.nn.init.normal_(weight, std=0.2, generator=generator)
    save_file({name: weight.detach() for name, weight in network.named_parameters()}, folder / EDITOR)
    text.save_encoder(dict(text.new_encoder().named_parameters()), text.vocabulary(), folder / ENCODER)
    save_file(vae.new_network(8).state_dict(), folder / vae.EXPORT)
    return folder


@pytest.fixture(scope="module")
def editor(weights):
    return load_editor(weights, weights, "cpu")


@pytest.fixture(scope="module")
def batch():
    return EditBatch(*(part[:2] for part in held_out(SIZE, 0, "cpu")))


# Token order ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid, groups", [((8, 8, 12), 2), ((9, 5, 6), 3), ((1, 1, 1), 1)])
def test_tiles_and_back(grid, groups):
    tokens = math.prod(grid)
    layout = TokenLayout(tokens, (tokens,) * (groups - 1))
    order = tile_order(grid, layout, torch.device("cpu"))
    assert torch.equal(order.sort().values, torch.arange(layout.total))
    assert torch.equal(torch.arange(layout.total)[order][order.argsort()], torch.arange(layout.total))
    assert torch.equal(order.view(groups, -1) // tokens, torch.arange(groups)[:, None].expand(-1, tokens)), "groups stay apart"


def test_a_block_is_a_compact_tile():
    grid = (8, 8, 12)
    order = tile_order(grid, TokenLayout(768, (768,)), torch.device("cpu"))[768:] - 768
    places = torch.stack(torch.unravel_index(order, grid), dim=1).view(12, 64, 3)
    assert torch.equal(places.amax(1) - places.amin(1) + 1, torch.tensor(TILE).expand(12, 3))


def test_full_attention_does_not_depend_on_the_order():
    grid, layout = (3, 6, 7), TokenLayout(126, (126,))
    q, k, v = torch.randn(3, 2, 252, 2, 16, generator=torch.Generator().manual_seed(0))
    all_dense = ISAConfig(keep_ratio=1, dense_query_ratio=1, block_size=16)
    tiled = attend(Setting(all_dense, tiles=True), q, k, v, layout, grid)[0]
    torch.testing.assert_close(tiled, dense_attention(q, k, v))
    raster, sparse = (
        attend(Setting(ISAConfig(block_size=16), tiles=tiles), q, k, v, layout, grid)[0] for tiles in (False, True)
    )
    assert not torch.allclose(raster, sparse, atol=1e-3), "sparse attention does"


# Settings -------------------------------------------------------------------------------------------------------------


def test_settings_are_valid_and_the_papers_is_the_papers():
    found = settings(threshold=0.25)
    assert list(found)[0] == FULL and found[FULL].config is None and found[PAPER] == Setting(ISAConfig())
    assert found["isa-threshold"].config.sharpness_threshold == 0.25
    assert len(set(found.values())) == len(found), "no two alike"


def test_equal_cost_is_equal_at_the_size_of_the_study():
    layout, found = TokenLayout(2304, (2304,)), settings(threshold=0.0)
    paper = estimate_cost(layout, found[PAPER].config)[1]
    for name, setting in found.items():
        if name.startswith("isa-equal"):
            assert 0.9 * paper < estimate_cost(layout, setting.config)[1] <= fidelity_tables.EQUAL_COST * paper, name


def edited(editor, batch, setting):
    attention = Override(setting)
    return editor.edit(batch.source, batch.instructions, 2, attention), attention.flop_ratio


@pytest.mark.slow
@pytest.mark.parametrize("tiles", [False, True])
def test_isa_that_leaves_nothing_out_edits_as_full_attention(editor, batch, tiles):
    full, cost = edited(editor, batch, Setting())
    assert cost == 1 and full.std() > 0.01
    same = edited(editor, batch, Setting(ISAConfig(keep_ratio=1, dense_query_ratio=1, block_size=4), tiles))[0]
    torch.testing.assert_close(same, full, rtol=0, atol=2e-4)
    for clip in fidelity_quality.against_full(full, full):
        assert clip["psnr_vs_full"] == 100 and clip["ssim_vs_full"] == pytest.approx(1, abs=1e-4) and clip["gmsd_vs_full"] == 0


@pytest.mark.slow
def test_a_setting_differs_and_says_what_it_costs(editor):
    # More tokens than a tile and than a block of the residual; a block of 16 is a row and a half, or a square.
    clip, layout = EditStream(0, 1, 1, 128, 160)[0], TokenLayout(80, (80,))
    full, config = edited(editor, clip, Setting())[0], ISAConfig(block_size=16)
    outputs = [edited(editor, clip, Setting(config, *tiled)) for tiled in ((), (True,), (True, True))]
    assert all(cost == pytest.approx(estimate_cost(layout, config)[1], rel=1e-5) for _, cost in outputs)
    every = [full, *(output for output, _ in outputs)]
    assert all(not torch.allclose(a, b, atol=1e-4) for i, a in enumerate(every) for b in every[:i])


def test_watching_changes_nothing_and_sees_every_call(editor, batch):
    calls = []
    watch(editor, batch, 2, calls.append)
    assert [(call.step, call.block) for call in calls] == [(step, block) for step in range(2) for block in range(2)]
    for call in calls:
        assert call.q.shape == (4, 24, 1, 128) and call.layout == LAYOUT and call.grid == (2, 2, 3)
        torch.testing.assert_close(call.full, dense_attention(call.q, call.k, call.v))
    chosen = {name: settings(0.0, 4)[name] for name in (PAPER, "isa-all-dense")}
    errors = fidelity_attention.attention_errors(editor, batch, 2, chosen)
    assert np.shape(errors[PAPER]["target"]) == np.shape(errors[PAPER]["all"]) == (2, 2)
    assert np.max(errors["isa-all-dense"]["all"]) < 1e-5 < 1e-3 < np.min(errors[PAPER]["target"])


# Measures -------------------------------------------------------------------------------------------------------------


def test_measures_fall_with_damage(batch):
    slight, heavy = (
        (batch.target + scale * torch.randn(batch.target.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
        for scale in (0.02, 0.2)
    )
    for good, bad in zip(*(fidelity_quality.against_full(made, batch.target) for made in (slight, heavy))):
        assert 30 < good["psnr_vs_full"] < 40 and 10 < bad["psnr_vs_full"] < 20
        assert 1 > good["ssim_vs_full"] > bad["ssim_vs_full"] and 0 < good["gmsd_vs_full"] < bad["gmsd_vs_full"]


def test_gradient_deviation_of_an_edge_that_is_lost_on_one_side():
    flat, edge = torch.full((1, 3, 16, 16), 0.5), torch.full((1, 3, 16, 16), 0.5)
    edge[..., 8:] = 1.0
    assert fidelity_quality.gradient_deviation(edge, edge) == 0
    similar = torch.ones(8, 8)
    # At half size the edge is between columns 3 and 4; Prewitt's answer is half its height, and at the picture's margin all
    # of it is there in both pictures but for zero padding.
    magnitudes = [fidelity_quality._gradient_magnitude(image)[0] for image in (edge, flat)]
    stable = fidelity_quality.GRADIENT_STABILITY
    assert magnitudes[0][4, 3].item() == pytest.approx(0.5) and magnitudes[1][4, 3].item() == pytest.approx(0, abs=1e-6)
    similar = (2 * magnitudes[0] * magnitudes[1] + stable) / (magnitudes[0] ** 2 + magnitudes[1] ** 2 + stable)
    assert fidelity_quality.gradient_deviation(edge, flat) == pytest.approx(similar.std(correction=0).item(), rel=1e-4)


def test_ground_truth_and_the_source_left_alone(batch):
    for clip in fidelity_quality.against_truth(batch, batch.target):
        assert clip["psnr_gt"] == clip["psnr_region"] == 100 and clip["edit_accuracy"] and clip["gmsd_gt"] == 0
    for clip in fidelity_quality.copied(batch):
        assert clip["psnr_copy_region"] <= clip["psnr_copy"] < 60 and clip["ssim_copy"] < 1


def test_means_by_task_with_the_error_of_the_change():
    clips = [{"psnr_gt_change": change, "psnr_gt": 20.0} for change in (-1.0, 1.0, 3.0)]
    found = fidelity_quality.by_task(["add", "add", "style"], clips)
    assert found["all"] == {"clips": 3, "psnr_gt_change": 1.0, "psnr_gt": 20.0, "psnr_gt_change_se": 2 / 3**0.5}
    assert found["add"]["psnr_gt_change_se"] == 1.0 and found["style"]["psnr_gt_change_se"] is None


# Premises -------------------------------------------------------------------------------------------------------------


def test_saliency_where_all_is_known():
    layout, config = TokenLayout(8, (32,)), ISAConfig(keep_ratio=0.25, block_size=4)
    q, k = torch.zeros(1, 40, 1, 4), torch.zeros(1, 40, 1, 4)
    q[..., 0] = 2.0  # 1/√D takes half of it away
    for block, weight in ((3, 8.0), (5, 4.0)):  # of ten; the target's are 0 and 1
        k[:, 4 * block : 4 * block + 4, :, 0] = math.log(weight)
    found = {name: value.item() for name, value in fidelity_attention.context_saliency(q, k, layout, config).items()}
    # In tokens' worth: the target has 8, the context 6 blocks of 4 each at weight 1, one at 8, one at 4.
    context = 6 * 4 + 32 + 16
    assert found == pytest.approx(
        {"context_share": context / (8 + context), "kept_share": 48 / context, "best_share": 48 / context}
    )


def test_errors_and_sharpness_where_all_is_known():
    layout, config = TokenLayout(16, (16,)), ISAConfig(keep_ratio=1, exact_ratio=0.125, block_size=4)
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(1, 32, 2, 8, generator=generator)
    k, v = torch.randn(2, 1, 8, 1, 2, 8, generator=generator).expand(-1, -1, -1, 4, -1, -1).flatten(2, 3)
    found = fidelity_attention.sharpness_and_error(q, k, v, layout, config)
    assert {name: value.shape for name, value in found.items()} == dict.fromkeys(found, (1, 2, 8))
    assert max(found["taylor"].max(), found["routed"].max()) < 1e-5, "blocks of equal tokens are their means"

    v = v.clone()
    v[:, 4:8] += torch.tensor([3.0, -3.0, 3.0, -3.0]).view(1, 4, 1, 1)
    k = k.clone()
    k[:, 4:8, :, 0] += torch.tensor([3.0, -3.0, 3.0, -3.0]).view(1, 4, 1)
    errors = fidelity_attention.sharpness_and_error(q, k, v, layout, config)
    assert errors["taylor"].min() > 1e-3 and (errors["routed"] <= errors["taylor"] + 1e-5).all()
    assert (errors["routed"] < 1e-5).any(), "where the block that is not its mean is attended exactly"


def test_sharpness_tells_where_means_err_when_nothing_else_differs():
    layout, config = TokenLayout(64, (64,)), ISAConfig(keep_ratio=1, block_size=4)
    generator = torch.Generator().manual_seed(0)
    k, v = torch.randn(2, 1, 128, 4, 16, generator=generator)
    # All query blocks look in one direction, one more keenly than the other.
    keenness = torch.linspace(0.1, 3, 32)[torch.randperm(32, generator=generator)].repeat_interleave(4)
    q = torch.randn(4, 16, generator=generator) * keenness.view(1, -1, 1, 1)
    found = fidelity_attention.sharpness_and_error(q, k, v, layout, config)
    for metric in ("variance", "top_mass"):
        assert fidelity_attention.rank_correlation(found[metric][0], found["taylor"][0]) > 0.9


def test_rank_correlation():
    one = torch.tensor([[1.0, 2, 3, 4], [1, 2, 3, 4], [5, 5, 5, 5]])
    other = torch.tensor([[1.0, 10, 11, 90], [4, 3, 2, 1], [1, 2, 3, 4]])
    assert fidelity_attention.rank_correlation(one[:1], other[:1]) == 1
    assert fidelity_attention.rank_correlation(one, other) == 0, "the mean of 1 and -1; a constant row has no ranks"
    assert fidelity_attention.rank_correlation(one[2:], other[2:]) is None


# The command ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(weights, tmp_path, monkeypatch):
    """The command with more arguments -> its results."""
    page = tmp_path / "docs/fidelity.md"
    page.parent.mkdir()
    shutil.copy(fidelity.ROOT / "docs/fidelity.md", page)

    def call(*arguments):
        sizes = ["--size", *map(str, SIZE), "--block-size", "4", "--steps", "2", "--clips", "1", "--device", "cpu"]
        places = ["--weights", str(weights), "--out", str(tmp_path / "found.json"), "--docs", str(page.parent)]
        monkeypatch.setattr(sys, "argv", ["fidelity.py", *sizes, *places, *arguments])
        fidelity.main()
        return json.loads((tmp_path / "found.json").read_text())

    return call


@pytest.mark.slow
def test_the_whole_command(run, weights, tmp_path):
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(6):
        Image.fromarray(np.full((70, 90, 3), 40 * number, dtype=np.uint8)).save(frames / f"{number}.png")
    found = run("--settings", PAPER, "isa-threshold", "--video", str(frames))
    rows = {(row["setting"], row["task"]): row for row in found["rows"]}
    full, isa = rows[FULL, "all"], rows[PAPER, "all"]
    assert full["clips"] == 7 and full["tokens"] == 24 and full["flop_ratio"] == 1 and full["psnr_vs_full"] == 100
    assert isa["psnr_vs_full"] < 100 and isa["flop_ratio"] < 0.7 and isa["psnr_gt_change"] != 0
    expected = ("psnr_gt", "psnr_region", "psnr_copy", "ssim_gt", "ssim_vs_full", "gmsd_vs_full", "edit_accuracy")
    assert all(math.isfinite(isa[name]) for name in expected)
    assert len({task for _, task in rows}) == 8 and len(found["rows"]) == 3 * 8
    assert [row["clips"] for row in found["video_rows"]] == [6] * 3 and found["video_rows"][0]["psnr_vs_full"] == 100
    assert found["premises"][0]["threshold"] > 0 and np.shape(found["attention"][0]["target"]) == (2, 2)
    page = (tmp_path / "docs/fidelity.md").read_text()
    assert page.count(BEGIN) == page.count(END) == 1 and "| isa-threshold |" in page
    images = sorted((tmp_path / "docs/images").iterdir())
    assert [image.name for image in images] == ["fidelity-attention.png", "fidelity-premises.png", "fidelity-quality.png"]
    assert all(image.stat().st_size > 5000 and f"(images/{image.name})" in page for image in images)

    more = run("--stage-one", str(weights), "--settings", PAPER)
    assert more["rows"][: len(found["rows"])] == found["rows"], "nothing is measured twice"
    added = {row["setting"]: row for row in more["rows"][len(found["rows"]) :] if row["task"] == "all"}
    tuned = f"{PAPER}-finetuned"
    assert list(added) == [FULL, tuned] and added[tuned]["psnr_gt"] == isa["psnr_gt"], "the same weights under another name"
    assert more["command"].count(" && ") == 1
    with pytest.raises(ValueError, match="of other weights, sizes or devices"):
        run("--steps", "3")


def test_a_real_video(sample_video):
    source, instructions = real_clip(sample_video, SIZE, "cpu")
    assert source.shape == (len(instructions), 3, *SIZE) and 0 <= source.min() and source.max() <= 1 and source.std() > 0.01
    assert torch.equal(source[0], source[-1]) and "turn the video into a pencil sketch" in instructions


def test_too_few_pictures(tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "0.png")
    with pytest.raises(ValueError, match="holds 1 frames; 5 are needed"):
        real_clip(tmp_path, SIZE, "cpu")


def test_what_dominates_the_papers_setting():
    def row(setting, **measures):
        return {"setting": f"{setting}-finetuned", "weights": "final", "task": "all", "edit_accuracy": 0.5, **measures}

    rows = [
        row(PAPER, flop_ratio=0.3, psnr_vs_full=30.0, psnr_gt=20.0),
        row("isa-better", flop_ratio=0.3, psnr_vs_full=31.0, psnr_gt=20.0),
        row("isa-dear", flop_ratio=0.4, psnr_vs_full=40.0, psnr_gt=21.0),
        row("isa-wrong", flop_ratio=0.2, psnr_vs_full=31.0, psnr_gt=19.0),
    ]
    assert fidelity_tables.dominating({"rows": rows}, "final") == ["isa-better"]
    assert fidelity_tables.dominating({"rows": []}, "final") == []


def test_the_pages_hold_what_was_measured_of_context_reuse(tmp_path):
    """The stored measurements give the tables that the docs hold, and their curve."""
    stored = [json.loads(newest(name).read_text()) for name in ("context-reuse", "whole-edit")]
    quality, edits = stored
    assert reuse_report.quality_table(quality["rows"]) in (ROOT / "docs/fidelity.md").read_text(encoding="utf-8")
    assert reuse_report.speed_table(edits["rows"]) in (ROOT / "docs/memory-and-speed.md").read_text(encoding="utf-8")
    reuse_report.plot(quality, edits, tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as curve:
        assert curve.width > 1000


def newest(name: str):
    return max((ROOT / "benchmarks/results").glob(f"{name}-h200-*.json"))
