"""Metrics by models of hubs, from the cache to the number: small random models of the same classes under the same names in a cache of
Hugging Face's layout, and the same step by step with the libraries' own calls."""

import math
from pathlib import Path

import pytest
import torch
import torchvision
from evaluated import noisy, right, save, scene
from liveditor_isa.evaluation.benches import five
from liveditor_isa.evaluation.catalogue import all_metrics
from liveditor_isa.evaluation.frames import STRETCH, Inputs
from liveditor_isa.evaluation.items import Item
from liveditor_isa.evaluation.metrics import features, lpips
from PIL import Image
from small_clip import write_clip

pytestmark = pytest.mark.slow

COMMIT = "0123456789abcdef0123456789abcdef01234567"
BEFORE, AFTER = "a red box", "a blue box"
MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
CLIP_L, CLIP_B = "openai/clip-vit-large-patch14", "openai/clip-vit-base-patch32"
PICK, CLIP_H = "yuvalkirstain/PickScore_v1", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
DINOV2, DINO_S, DINO_B = "facebook/dinov2-base", "facebook/dino-vits16", "facebook/dino-vitb8"


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    from transformers import BitImageProcessor, CLIPModel, Dinov2Config, Dinov2Model, ViTConfig, ViTImageProcessor, ViTModel

    folder = tmp_path_factory.mktemp("hub")
    for seed, name in enumerate((CLIP_L, CLIP_B, PICK, CLIP_H)):
        write_clip(snapshot(folder, name), processor=name != PICK)
        model = CLIPModel.from_pretrained(snapshot(folder, name))
        torch.manual_seed(seed)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight), alpha=0.1)
            model.logit_scale.fill_(math.log(100))  # as released CLIPs have it
            if name == CLIP_L:
                model.text_projection.weight.neg_()  # cosines above 0
        model.save_pretrained(snapshot(folder, name))
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(9)
    Dinov2Model(Dinov2Config(**small, image_size=224, patch_size=14)).save_pretrained(snapshot(folder, DINOV2))
    crop = {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}
    BitImageProcessor(**crop, image_mean=MEAN, image_std=DEVIATION).save_pretrained(snapshot(folder, DINOV2))
    for name, side, patch in ((DINO_S, 224, 16), (DINO_B, 32, 8)):
        ViTModel(ViTConfig(**small, intermediate_size=32, image_size=side, patch_size=patch)).save_pretrained(
            snapshot(folder, name)
        )
        ViTImageProcessor().save_pretrained(snapshot(folder, name))
    return folder


def snapshot(cache: Path, name: str) -> Path:
    """Made where it is missing, with the name main for it."""
    root = cache / f"models--{name.replace('/', '--')}"
    (root / "refs").mkdir(parents=True, exist_ok=True)
    (root / "refs/main").write_text(COMMIT, encoding="utf-8")
    (root / "snapshots" / COMMIT).mkdir(parents=True, exist_ok=True)
    return root / "snapshots" / COMMIT


@pytest.fixture
def compute(cache, tmp_path, monkeypatch):
    """(metric's name, edit) -> its values. The cache is that of the models above."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    features.load.cache_clear()
    source, mask = scene()
    paths = {name: str(save(tmp_path / name, video)) for name, video in (("source", source), ("mask", mask))}
    item = Item("one", source_prompt=BEFORE, target_prompt=AFTER, **paths)

    def values(name: str, edit: torch.Tensor, **options) -> dict[str, float]:
        metric = all_metrics()[name]
        metric.ready()
        if metric.model():
            assert COMMIT in metric.model() or "squeeze" in metric.model()
        return metric.compute(Inputs(item, str(save(tmp_path / "edit", edit)), **options))

    yield values
    features.load.cache_clear()


@pytest.fixture
def edit() -> torch.Tensor:
    return noisy(right(*scene()), 40)


def pictures(frames: torch.Tensor) -> list[Image.Image]:
    return [Image.fromarray(frame.numpy()) for frame in frames]


def cosines(rows: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cosine_similarity(rows, others).clamp(min=0)


@torch.no_grad()
def pooled(folder: Path, kind: str, frames: torch.Tensor) -> torch.Tensor:
    import transformers

    pixels = transformers.AutoImageProcessor.from_pretrained(folder)(images=pictures(frames), return_tensors="pt")
    return getattr(transformers, kind).from_pretrained(folder).eval()(**pixels).pooler_output


@pytest.mark.parametrize(
    "name, repository, kind",
    [("clip_temporal_consistency", CLIP_L, "CLIPVisionModel"), ("dino_temporal_consistency", DINOV2, "Dinov2Model")],
)
def test_editverses_consistency_over_time(compute, cache, edit, name, repository, kind):
    rows = pooled(snapshot(cache, repository), kind, edit)
    assert compute(name, edit)[name] == pytest.approx(float(cosines(rows[1:], rows[:-1]).mean()), abs=1e-4)


@torch.no_grad()
def logits(model: Path, processor: Path, images: list[Image.Image], text: str) -> float:
    from transformers import AutoProcessor, CLIPModel

    asked = AutoProcessor.from_pretrained(processor)(text=[text], images=images, return_tensors="pt", padding=True)
    return float(CLIPModel.from_pretrained(model).eval()(**asked).logits_per_image.mean())


def test_editverses_alignment_of_frames_and_text(compute, cache, edit):
    folder = snapshot(cache, CLIP_L)
    found = compute("frame_text_alignment", edit)["frame_text_alignment"]
    assert found == pytest.approx(logits(folder, folder, pictures(edit), AFTER), abs=1e-2)


def test_pickscore_sees_frames_of_672_pixels_through_the_processor_of_the_clip_that_it_came_from(compute, cache, edit):
    large = edit.repeat_interleave(6, 1).repeat_interleave(6, 2)
    images = [image.resize((672, 504), Image.Resampling.BICUBIC) for image in pictures(large)]
    wanted = logits(snapshot(cache, PICK), snapshot(cache, CLIP_H), images, AFTER)
    found = compute("pick_score_video_quality", large)["pick_score_video_quality"]
    assert found == pytest.approx(wanted, abs=1e-2)
    assert abs(found - logits(snapshot(cache, CLIP_H), snapshot(cache, CLIP_H), images, AFTER)) > 0.1  # another model's


@torch.no_grad()
def test_ives_consistency_of_subject_and_background(compute, cache, edit):
    """Against the frame before and the first one."""
    from torchvision.transforms.v2 import Compose, Normalize, Resize
    from transformers import AutoProcessor, CLIPModel, ViTModel

    prepare = Compose([Resize((224, 224), antialias=True), Normalize(MEAN, DEVIATION)])
    pixels = torch.stack([prepare(frame.movedim(-1, 0) / 255) for frame in edit])
    seen = ViTModel.from_pretrained(snapshot(cache, DINO_S)).eval()(pixels).last_hidden_state[:, 0]
    clip = CLIPModel.from_pretrained(snapshot(cache, CLIP_B)).eval()
    asked = AutoProcessor.from_pretrained(snapshot(cache, CLIP_B))(
        text=[AFTER], images=pictures(edit), return_tensors="pt", padding=True
    )
    for name, rows in (("subject_consistency", seen), ("background_consistency", clip(**asked).image_embeds)):
        wanted = (cosines(rows[1:], rows[:-1]) + cosines(rows[1:], rows[:1].expand_as(rows[1:]))).mean() / 2
        assert compute(name, edit)[name] == pytest.approx(float(wanted), abs=1e-4)


NINE = 9
"""Frames, of which FiVE-Bench measures the first and the ninth."""


@torch.no_grad()
def test_fives_clip_scores_are_a_hundred_cosines(compute, cache, tmp_path):
    """torchmetrics' definition; its own function takes an older transformers."""
    from transformers import AutoProcessor, CLIPModel

    source, mask = scene(frames=NINE)
    edited = right(source, mask)
    save(tmp_path / "source", source), save(tmp_path / "mask", mask)
    found = compute("five_clip", edited)

    def by_hand(frames: torch.Tensor, text: str) -> float:
        folder = snapshot(cache, CLIP_L)
        options = {"images": pictures(frames[::8]), "return_tensors": "pt", "padding": True}
        asked = AutoProcessor.from_pretrained(folder)(text=[text], **options)
        rows = CLIPModel.from_pretrained(folder).eval()(**asked)
        return 100 * float(torch.cosine_similarity(rows.image_embeds, rows.text_embeds).mean())

    shown = {"source": (source, BEFORE), "target": (edited, AFTER), "edited": (edited * mask[..., None], AFTER)}
    wanted = {f"five_clip_{name}": by_hand(*asked) for name, asked in shown.items()}
    assert found == pytest.approx(wanted, abs=2e-2) and min(wanted.values()) > 1


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"alignment": STRETCH}])
def test_fives_structure_distance(compute, cache, edit, options):
    """Short side 224; in the published code's way of values up to 255, taken for values up to 1."""
    from transformers import ViTModel

    model = ViTModel.from_pretrained(snapshot(cache, DINO_B)).eval()
    resize = torchvision.transforms.v2.Resize(224, antialias=True)
    normalise = torchvision.transforms.v2.Normalize(MEAN, DEVIATION)
    scale = 1 if options else 1 / 255
    maps = [
        five.self_similarity(model, normalise(resize(video[0].movedim(-1, 0).float()) * scale)[None])
        for video in (scene()[0], edit)
    ]
    wanted = 1000 * float((maps[0] - maps[1]).square().mean())
    assert compute("five_structure", edit, **options)["five_structure"] == pytest.approx(wanted, rel=1e-2) and wanted > 0


@pytest.mark.parametrize(("size", "wanted"), [((214, 380), (224, 397)), ((1097, 400), (480, 175)), ((427, 1280), (160, 480))])
def test_fives_pictures_for_dino_have_torchvisions_size(size, wanted):
    """A short side of 214 pixels, and 176 others, became 223 by rounding down: DINO lost a row of its patches."""
    assert five.as_published(torch.rand(1, 3, *size), correct=True).shape[-2:] == wanted


def test_fives_lpips_is_squeezenets_of_both_black_within_the_mask(compute, tmp_path, monkeypatch):
    torch.manual_seed(0)
    (tmp_path / "checkpoints").mkdir()
    weights = torchvision.models.squeezenet1_1(weights=None).state_dict()
    torch.save(weights, tmp_path / "checkpoints/squeezenet1_1-b8a52dc0.pth")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    lpips._network.cache_clear()
    source, mask = scene(frames=NINE)
    edited = noisy(source)
    save(tmp_path / "source", source), save(tmp_path / "mask", mask)
    found = compute("five_lpips", edited)["five_lpips"]
    network, kept = lpips.build("squeeze", weights), ~mask[..., None]
    pairs = [[(video[at] * kept[at]).movedim(-1, 0)[None] / 255 for video in (edited, source)] for at in (0, 8)]
    wanted = 1000 * sum(float(network(*pair, normalize=True).mean()) for pair in pairs) / 2
    assert found == pytest.approx(wanted, rel=1e-4) and found > 0
    lpips._network.cache_clear()
