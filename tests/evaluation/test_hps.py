"""A preference model in open_clip's form, as HPSv2's own file: its score step by step, by plain PyTorch and, where it is installed, by open_clip."""

import json

import pytest
import torch
from evaluated import right, save, scene, write_rows
from liveditor_isa.command import main
from liveditor_isa.evaluation.metrics import hps
from liveditor_isa.evaluation.metrics.preference import model_of, preference
from liveditor_isa.evaluation.records import Run
from liveditor_isa.evaluation.results import collect
from PIL import Image, ImageOps
from small_clip import write_clip
from small_open_clip import SIDE, TOKENS, by_open_clip, plain, write_hps

pytestmark = pytest.mark.slow
TEXT = "a blue box on a wall"


def by_hand(frame: torch.Tensor, images) -> torch.Tensor:
    picture = ImageOps.pad(Image.fromarray(frame.numpy()), (SIDE, SIDE), Image.Resampling.BICUBIC, (0, 0, 0))
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(SIDE, SIDE, 3).movedim(-1, 0) / 255
    return (pixels - torch.tensor(images.image_mean)[:, None, None]) / torch.tensor(images.image_std)[:, None, None]


def by_package(frame: torch.Tensor, images) -> torch.Tensor:
    """As HPSv2 takes open_clip's."""
    from open_clip import image_transform

    options = {"resize_mode": "longest", "interpolation": "bicubic", "fill_color": 0}
    prepare = image_transform(SIDE, False, tuple(images.image_mean), tuple(images.image_std), **options)
    return prepare(Image.fromarray(frame.numpy()))


@torch.no_grad()
def cosine(model, folder, frames: torch.Tensor, prepare) -> float:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    ids = torch.zeros(1, TOKENS, dtype=torch.long)
    said = processor.tokenizer([TEXT])["input_ids"][0]
    ids[0, : len(said)] = torch.tensor(said)
    seen = model.encode_image(torch.stack([prepare(frame, processor.image_processor) for frame in frames]))
    return float(torch.nn.functional.cosine_similarity(seen, model.encode_text(ids)).mean())


@pytest.mark.parametrize("make, prepare", [(plain, by_hand), (by_open_clip, by_package)], ids=["by hand", "open_clip"])
def test_the_score_is_the_cosine_of_whole_pictures_as_hpsv2_has_it(tmp_path, make, prepare):
    if make is by_open_clip:
        pytest.importorskip("open_clip", reason="open_clip_torch is not installed")
    model = write_hps(tmp_path / "hps", make)
    source, mask = scene()
    edit = right(source, mask)
    assert edit.shape[1] != edit.shape[2]  # not square
    wanted = cosine(model, tmp_path / "hps", edit, prepare)
    assert preference(model_of(str(tmp_path / "hps")), edit, TEXT) == pytest.approx(wanted, abs=1e-5)
    save(tmp_path / "source", source)
    save(tmp_path / "edit", edit)
    clips = write_rows(tmp_path / "clips.jsonl", {"id": "one", "source": "source", "edit": "edit", "target_prompt": TEXT})
    command = ("score", str(clips), "--run", str(tmp_path / "run"), "--metrics", "psnr_source")
    assert main(["evaluate", *command, "--preference", str(tmp_path / "hps")]) == 0
    found = collect(Run(tmp_path / "run"))
    assert found.of("preference")["one"] == pytest.approx(wanted, abs=1e-5)
    gain = wanted - cosine(model, tmp_path / "hps", source, prepare)
    assert found.of("preference_gain")["one"] == pytest.approx(gain, abs=1e-5)


def test_a_high_picture_and_a_small_one_are_whole_in_the_middle():
    frames = torch.full((2, 20, 10, 3), 200, dtype=torch.uint8)
    found = hps.squared(frames, 32)
    assert found.shape == (2, 32, 32, 3) and found.dtype == torch.uint8
    assert bool((found[:, :, 8:24] == 200).all()) and not found[:, :, :8].any() and not found[:, :, 24:].any()


def test_weights_of_transformers_come_first(tmp_path):
    folder = write_clip(tmp_path / "likes")
    torch.save({}, folder / "training_args.pt")
    assert hps.checkpoint_in(folder) is None
    (folder / "model.safetensors").unlink()
    assert hps.checkpoint_in(folder) == folder / "training_args.pt"


def wider(folder):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["vision_config"]["hidden_size"] = 32
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def another(folder):
    torch.save({"state_dict": {"visual.trunk.weight": torch.zeros(1)}}, folder / "HPS.pt")


def broken(folder):
    (folder / "HPS.pt").write_bytes(b"<html>not found</html>")


def listed(folder):
    torch.save([1, 2], folder / "HPS.pt")


OTHER = "is no CLIP of open_clip as .*config.json describes it"


@pytest.mark.parametrize(
    "spoil, words",
    [(wider, OTHER + r" \(size mismatch"), (another, OTHER), (broken, "HPS.pt .*download it again"), (listed, "holds a list")],
)
def test_what_is_no_such_checkpoint_is_one_sentence(tmp_path, spoil, words):
    write_hps(tmp_path / "hps")
    spoil(tmp_path / "hps")
    with pytest.raises(ValueError, match=words) as raised:
        hps.read(tmp_path / "hps", tmp_path / "hps/HPS.pt")
    assert "\n" not in str(raised.value)


def test_the_file_in_the_place_of_its_folder_is_one_sentence(tmp_path, capsys):
    write_hps(tmp_path / "hps")
    source, mask = scene()
    save(tmp_path / "source", source)
    clips = write_rows(tmp_path / "clips.jsonl", {"id": "one", "source": "source", "edit": "source", "target_prompt": TEXT})
    command = ("score", str(clips), "--run", str(tmp_path / "run"), "--metrics", "psnr_source")
    assert main(["evaluate", *command, "--preference", str(tmp_path / "hps/HPS.pt")]) == 0
    assert "HPS.pt is a file: name the folder that has it" in capsys.readouterr().out
