"""`liveditor convert --to-folder`: a folder that diffusers opens, with the results of the three files that it was made from."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from liveditor_isa.checkpoint.keys import CheckpointError
from liveditor_isa.command import main
from liveditor_isa.pipelines.edit import load
from liveditor_isa.pipelines.pipeline import LIVEditorPipeline
from liveditor_isa.pipelines.record import record_of
from liveditor_isa.pipelines.request import Edit, ModelChoice
from liveditor_isa.pipelines.text_encoder import load_text_encoder
from liveditor_isa.pipelines.vae import load_vae
from liveditor_isa.pipelines.weights import save_pipeline
from liveditor_isa.training.editor.encoders import open_encoders
from liveditor_isa.training.editor.settings import Model
from liveditor_isa.video.clip import open_clip
from liveditor_isa.video.source import FileSource
from make_tiny_model import ENCODER, MODEL, VAE, bin_variants
from safetensors.torch import load_file, save_file

PARTS = ("transformer", "text_encoder", "vae")


@pytest.fixture(scope="module")
def files(models) -> list[str]:
    return [str(models / name) for name in (MODEL, ENCODER, VAE)]


@pytest.fixture(scope="module")
def folder(files, tmp_path_factory):
    """Made where there was an empty one."""
    made = tmp_path_factory.mktemp("whole") / "liveditor"
    made.mkdir()
    assert main(command(files, made)) == 0
    return made


def command(files, to, *more) -> list[str]:
    model, encoder, vae = files
    return ["convert", model, "--text-encoder", encoder, "--vae", vae, "--to-folder", str(to), *more]


def edited(pipe):
    pipe.set_progress_bar_config(disable=True)
    frames = torch.rand(5, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    options = {"width": 64, "height": 48, "num_inference_steps": 2, "generator": torch.Generator().manual_seed(0)}
    return torch.from_numpy(pipe(frames, "Add a red ball", **options).frames)


def weights(pipe) -> dict:
    return {f"{part}.{name}": weight for part in PARTS for name, weight in getattr(pipe, part).state_dict().items()}


def same(ones: dict, others: dict) -> bool:
    return ones.keys() == others.keys() and all(
        each.dtype == others[name].dtype and torch.equal(each, others[name]) for name, each in ones.items()
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_diffusers_opens_what_the_files_hold(files, folder, dtype):
    ours = LIVEditorPipeline.from_files(*files, dtype)
    found = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True, dtype=dtype)
    assert type(found) is LIVEditorPipeline and same(weights(found), weights(ours))
    if dtype == torch.float32:
        assert torch.equal(edited(found), edited(ours))


def test_parts_are_overridden(files, folder):
    given = {part: getattr(LIVEditorPipeline.from_files(*files, torch.float32), part) for part in PARTS}
    for part in PARTS:
        pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True, **{part: given[part]})
        assert [each for each in PARTS if getattr(pipe, each) is given[each]] == [part]


def test_parts_of_other_files_stand_in_for_a_folders_own(files, folder, tmp_path):
    """Which may be missing. In edits, beside a checkpoint, and where training encodes."""
    whole = shutil.copytree(folder, tmp_path / "whole")
    for part in ("vae", "text_encoder"):
        shutil.copytree(whole / part, tmp_path / part)
        shutil.rmtree(whole / part)
    shutil.move(whole / "tokenizer", tmp_path / "text_encoder" / "tokenizer")
    model, encoder, vae = files
    ours = weights(LIVEditorPipeline.from_files(*files, torch.float32))
    with pytest.raises(CheckpointError):
        load(ModelChoice(str(whole), encoder, dtype="fp32", isa=None))
    for parts in ((encoder, vae), (str(tmp_path / "text_encoder"), str(tmp_path / "vae"))):
        choice = ModelChoice(str(whole), *parts, dtype="fp32", isa=None)
        assert same(weights(load(choice)), ours)
        assert record_of(Edit("a.mp4", "p"), choice, tmp_path)["model"]["vae"] == parts[1]
        encoders = open_encoders(Model(str(whole), *parts), torch.device("cpu"), torch.float32)
        assert same(encoders.vae.state_dict(), load_vae(vae).state_dict())
    beside_a_file = ModelChoice(model, str(tmp_path / "text_encoder"), str(tmp_path / "vae"), dtype="fp32", isa=None)
    assert same(weights(load(beside_a_file)), ours)


def test_this_packages_own_class_runs_no_code_of_a_folder(folder, tmp_path):
    """Also of one that it saved itself, which diffusers opens too."""
    LIVEditorPipeline.from_pretrained(folder).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        DiffusionPipeline.from_pretrained(tmp_path)
    assert type(DiffusionPipeline.from_pretrained(tmp_path, trust_remote_code=True)) is LIVEditorPipeline
    (tmp_path / "liveditor_pipeline.py").write_text("raise SystemExit", encoding="utf-8")
    LIVEditorPipeline.from_pretrained(tmp_path)


@pytest.mark.slow
def test_the_command_edits_with_it(files, folder, sample_video, tmp_path):
    model, encoder, vae = files
    small = ["--size", "64x48", "--frames", "5", "--steps", "2", "--no-isa", "--device", "cpu"]
    edit = ["edit", str(sample_video), "Add a red ball", *small, "--out"]
    assert main([*edit, str(tmp_path / "one.mp4"), "--model", model, "--text-encoder", encoder, "--vae", vae]) == 0
    assert main([*edit, str(tmp_path / "two.mp4"), "--model", str(folder)]) == 0
    one, two = (torch.cat([*open_clip(FileSource(str(tmp_path / name)), 0, 0).chunks()]) for name in ("one.mp4", "two.mp4"))
    assert np.array_equal(one, two)


def test_weights_in_8_bits_lose_nothing(files, tmp_path):
    """As ComfyUI stores them, with a scale: what the file opens to, in whatever type."""
    stored = load_file(files[1])
    name = "encoder.block.0.layer.0.SelfAttention.q.weight"
    stored[name.removesuffix("weight") + "scale_weight"] = torch.tensor(0.0123)
    stored[name] = (stored[name] / 0.0123).to(torch.float8_e4m3fn)
    with_metadata(files[1], stored, tmp_path / "fp8.safetensors")
    save_pipeline(files[0], tmp_path / "fp8.safetensors", files[2], tmp_path / "folder")
    for dtype in (torch.float32, torch.bfloat16):
        (_, ours), (_, found) = (load_text_encoder(tmp_path / each, dtype) for each in ("fp8.safetensors", "folder"))
        assert same(found.state_dict(), ours.state_dict())


def with_metadata(source, tensors, to):
    from safetensors import safe_open

    with safe_open(source, "pt") as file:
        save_file(tensors, to, file.metadata())


def test_quiet_shows_no_bar_of_the_libraries(files, tmp_path, capsys):
    assert main(command(files, tmp_path / "folder", "--quiet")) == 0
    assert capsys.readouterr() == ("", "")


def test_a_type_is_of_all_parts(files, tmp_path, capsys):
    assert main(command(files, tmp_path / "half", "--dtype", "bf16")) == 0
    assert "half: text encoder, VAE and a transformer of 129 tensors, 0.0" in capsys.readouterr().out
    for file in (tmp_path / "half").rglob("*.safetensors"):
        assert {weight.dtype for weight in load_file(file).values()} == {torch.bfloat16}


@pytest.mark.parametrize(
    "changed, told",
    [
        (["--to-folder", "full"], "There is something already; name a new folder, or an empty one"),
        (["--to-folder", "full/file"], "There is something already"),
        (["--overwrite"], "--to-folder names the destination, which must be new: leave out --overwrite"),
        (["new.safetensors"], "--to-folder names the destination"),
        (["--vae", ""], "made from three files: name the --text-encoder (umt5_xxl_fp16.safetensors, say) and the --vae"),
        (["--vae", "none.safetensors"], "There is no file none.safetensors: check the name"),
        (["--vae", "TEXT"], "is not a Wan 2.1 VAE"),
        (["--text-encoder", "MODEL"], "is not a UMT5 text encoder"),
    ],
)
def test_what_does_not_fit_is_told_and_nothing_written(changed, told, files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    arguments = [{"TEXT": files[1], "MODEL": files[0]}.get(part, part) for part in changed]
    full = command(files, "new")
    if not arguments[0].startswith("--"):
        full.insert(2, arguments.pop(0))
    assert main([*full, *arguments]) == 2
    shown = capsys.readouterr().err.splitlines()[-1]
    assert shown.startswith("liveditor convert: ") and told in shown
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full"]


def test_parts_without_a_folder_are_refused(files, tmp_path, capsys):
    assert main(["convert", files[0], str(tmp_path / "new.safetensors"), "--vae", files[2]]) == 2
    assert "--text-encoder and --vae are for a folder of a whole model: name it with --to-folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("end", ["a damaged weight", "Ctrl-C", "a full disk"])
def test_a_folder_is_whole_or_absent(end, files, tmp_path, monkeypatch, capsys):
    damaged = bin_variants()["module"]
    if end == "a damaged weight":
        next(weight for name, weight in damaged["module"].items() if name.endswith("head.head.bias"))[0] = torch.nan
    torch.save(damaged, tmp_path / "model.bin")

    def stopped(*_):
        assert list(tmp_path.glob(".new.*.partial/vae/*.safetensors")), "other parts are there already"
        raise KeyboardInterrupt if end == "Ctrl-C" else OSError(28, "No space left on device")

    if end != "a damaged weight":
        monkeypatch.setattr("liveditor_isa.pipelines.weights.save_for_diffusers", stopped)
    status = main(command([str(tmp_path / "model.bin"), *files[1:]], tmp_path / "new"))
    said = {"a damaged weight": "holds NaN", "Ctrl-C": "stopped; nothing was written", "a full disk": "No space left"}
    assert status == (130 if end == "Ctrl-C" else 2) and said[end] in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model.bin"]


@pytest.mark.slow
def test_a_python_that_has_imported_nothing_of_ours_opens_it(folder):
    code = f"from diffusers import DiffusionPipeline as D; print(D.from_pretrained({str(folder)!r}, trust_remote_code=True))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")
    assert "LIVEditorPipeline" in done.stdout, done.stderr
