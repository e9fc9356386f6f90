"""The command line `liveditor`, end to end with LIVEditor-tiny, and what it says when it cannot."""

import argparse
import itertools
import json
import re
from fractions import Fraction
from functools import partial

import av
import liveditor_isa
import numpy as np
import pytest
import torch
from liveditor_isa.checkpoint.included import path_of
from liveditor_isa.checkpoint.keys import CheckpointError
from liveditor_isa.command import COMMANDS, main
from liveditor_isa.command.options import add_model_options, model_choice
from liveditor_isa.isa_core import ISAConfig
from liveditor_isa.pipelines.edit import Edit, edit_file, load
from liveditor_isa.pipelines.record import recorded_in
from liveditor_isa.pipelines.request import ModelChoice
from liveditor_isa.pipelines.transformer import LIVEditorTransformer3DModel
from liveditor_isa.pipelines.weights import save_for_diffusers
from liveditor_isa.video.mp4 import write_mp4
from make_tiny_model import BLOCKS, ENCODER, MODEL, VAE, bin_variants
from plain_tiny import plain_tiny
from safetensors.torch import load_file, save_file
from without_packages import run_without

QUICK = ["--frames", "5", "--size", "96x64", "--steps", "2"]


def described(path) -> dict:
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        frames = sum(1 for _ in container.decode(video=0))
        return {
            "frames": frames, "size": (video.width, video.height), "fps": video.average_rate,
            "sound": len(container.streams.audio), "tags": dict(container.metadata),
        }  # fmt: skip


def refused(arguments, capsys) -> str:
    assert main([str(part) for part in arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and "Traceback" not in shown.err
    return shown.err.splitlines()[-1]


# Help.


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0 and all(re.search(rf"^  {name} +{what}$", text, re.M) for name, (_, what) in COMMANDS.items())


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_has_examples_that_it_understands(command, capsys):
    """Every line of the examples is taken by the parser itself, up to what it does."""
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0 and f"usage: liveditor {command}" in text
    assert len(re.findall(rf"^  .*liveditor {command} |-m liveditor_isa {command} ", text, re.M)) >= 2
    # Not the lines of other commands, which go before or after.
    lines = [
        line for line in text[text.index("examples:") :].splitlines() if not re.match(rf"  liveditor (?!{command} )", line)
    ]
    options = set(re.findall(r"(?<!\S)--[a-z-]+", "\n".join(lines)))
    before = text[: text.index("examples:")]
    for step in re.findall(
        r"^  (\w+) ", before.partition("\nsteps:\n")[2].partition("\n\n")[0], re.M
    ):  # which have options of their own
        with pytest.raises(SystemExit):
            main([command, step, "--help"])
        before += capsys.readouterr().out
    assert options <= set(re.findall(r"--[a-z-]+", before)) | {
        "--nproc-per-node",
        "--head",
        "--address",
    }


def test_without_a_command_it_helps(capsys):
    assert main([]) == 2 and "commands:\n  edit " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--version"])
    assert re.fullmatch(r"liveditor \d.*\n", capsys.readouterr().out)


def test_an_unknown_command_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["paint"])
    assert ended.value.code == 2 and "'paint'" in capsys.readouterr().err


# Edit.


@pytest.mark.slow
def test_a_video_is_edited(sample_video, tmp_path, capsys):
    """Beside the video where nothing else is said; a second edit does not replace the first."""
    video = tmp_path / "bunny.mp4"
    video.write_bytes(sample_video.read_bytes())
    for name in ("bunny_edited.mp4", "bunny_edited_00001_.mp4"):
        assert main(["edit", str(video), "Make it night", *QUICK]) == 0
        found = described(tmp_path / name)
        assert (found["frames"], found["size"], found["fps"], found["sound"]) == (5, (96, 64), 25, 1)
        assert name in (shown := capsys.readouterr().out) and "2 steps of 96 tokens" in shown
        assert "10 tokens" not in shown and "fewer than min_tokens 12288" in shown
    assert json.loads(found["tags"]["liveditor"])["prompt"] == "Make it night"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bunny.mp4", "bunny_edited.mp4", "bunny_edited_00001_.mp4"]


@pytest.mark.slow
def test_a_folder_of_frames_is_edited_as_the_video_is(sample_video, tmp_path):
    from evaluated import save
    from liveditor_isa.evaluation.frames import read_video

    frames = save(tmp_path / "frames", read_video(str(sample_video), 5).frames)
    assert main(["edit", str(sample_video), "Make it night", *QUICK, "--out", str(tmp_path / "one.mp4")]) == 0
    assert main(["edit", str(frames), "Make it night", *QUICK]) == 0
    assert main(["edit", str(frames), "Make it night", *QUICK, "--fps", "12", "--out", str(tmp_path / "slow.mp4")]) == 0
    found = described(tmp_path / "frames_edited.mp4")
    assert (found["frames"], found["fps"], found["sound"]) == (5, 16, 0) and described(tmp_path / "slow.mp4")["fps"] == 12
    one, other = (read_video(str(tmp_path / name)).frames.float() for name in ("one.mp4", "frames_edited.mp4"))
    assert (one - other).abs().mean() < 2  # of 255: the frames are rounded to bytes


@pytest.mark.slow
def test_an_edit_is_repeated_from_its_file_and_for_another_seed(sample_video, tmp_path, monkeypatch):
    (tmp_path / "made").mkdir()
    (tmp_path / "bunny.mp4").write_bytes(sample_video.read_bytes())
    monkeypatch.chdir(tmp_path)
    options = "--min-tokens 0 --keep-ratio 0.5 --seed 7 --guidance 2 --context-refresh 2 --fps 12.5".split()
    assert main(["edit", "bunny.mp4", "Make it night", *QUICK, *options, "--out", "made/first.mp4"]) == 0
    monkeypatch.chdir(tmp_path / "made")
    record = recorded_in("first.mp4")
    assert record["video"] == "../bunny.mp4"
    assert record["guidance"] == 2 and record["steps"] == 2 and record["model"]["isa"]["keep_ratio"] == 0.5
    assert record["model"]["dtype"] == "fp32"  # and not "auto", which elsewhere is another
    assert record["versions"]["liveditor-isa"] == liveditor_isa.__version__ and "torch" in record["versions"]
    assert main(["edit", "--repeat", "first.mp4", "--out", "again.mp4"]) == 0
    assert recorded_in("again.mp4") == record and np.array_equal(pictures("first.mp4"), pictures("again.mp4"))
    assert main(["edit", "--seed", "8", "--repeat", "first.mp4", "--no-isa", "--out", "other"]) == 0
    changed = {"seed": 8, "model": record["model"] | {"isa": None}, "video": "../../bunny.mp4"}
    assert recorded_in("other") == record | changed, "of a folder of pictures"
    assert np.abs(np.subtract(pictures("first.mp4")[0], pictures("other/00001.png")[0], dtype=float)).mean() > 5


@pytest.mark.parametrize("file, told", [("VIDEO", "does not say how it was made"), ("missing.mp4", "cannot be read")])
def test_what_was_not_edited_here_cannot_be_repeated(file, told, sample_video, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["edit", "--repeat", str(sample_video) if file == "VIDEO" else file])
    shown = capsys.readouterr().err
    assert ended.value.code == 2 and told in shown and shown.count("\n") == 1


@pytest.mark.slow
def test_it_is_put_back_over_the_whole_frame(sample_video, tmp_path, capsys):
    out = tmp_path / "whole.mp4"
    options = ["--whole-frame", "--min-tokens", "0", "--keep-ratio", "0.5", "--guidance", "1", "--reference", str(sample_video)]
    options[-1] = str(picture(tmp_path))
    assert main(["edit", str(sample_video), "Make it night", *QUICK, *options, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert described(out)["size"] == (1280, 720) and f"{out}: 1280×720, 5 frames" in said
    change = np.abs(np.subtract(pictures(out)[0], pictures(sample_video)[0], dtype=float)).mean(axis=(0, 2))
    assert change[:90].max() < 10 < change[200:-200].mean(), "the frame around the edit is the source's"
    assert "ISA: 20 attention calls" in said


def picture(folder):
    from PIL import Image

    Image.new("RGB", (80, 60), "red").save(folder / "hat.png")
    return folder / "hat.png"


def test_other_files_than_the_included_ones_edit(models, sample_video, tmp_path):
    """The stand-in in its official wrapping, and the same as a folder in diffusers' layout."""
    files = ModelChoice(str(models / MODEL), str(models / ENCODER), str(models / VAE), dtype="fp32", isa=None)
    edit = Edit(str(sample_video), "Add a red ball", frames=1, size=(64, 48), steps=2)
    pipe = load(files)
    path, facts = edit_file(pipe, edit, tmp_path / "one.mp4", progress=False)
    assert (facts["frames"], facts["steps"], facts["tokens"]) == (1, 2, 24)
    webm, _ = edit_file(pipe, edit, tmp_path / "one.webm", progress=False)
    assert np.abs(np.subtract(pictures(webm)[0], pictures(path)[0], dtype=float)).mean() < 5
    with av.open(str(webm)) as container:
        assert container.format.name.startswith("matroska") and container.streams.video[0].codec_context.name == "vp9"
    pipe.save_pretrained(tmp_path / "folder")
    again, _ = edit_file(load(ModelChoice(str(tmp_path / "folder"), isa=None)), edit, tmp_path / "two.mp4", progress=False)
    assert np.array_equal(pictures(path), pictures(again))


def test_a_folder_that_is_not_whole_edits_nothing(models, tmp_path):
    """Loaded by diffusers alone it would, with random weights in place of those that are missing."""
    load(ModelChoice(str(models / MODEL), str(models / ENCODER), str(models / VAE), isa=None)).save_pretrained(tmp_path)
    for part in ("transformer", "vae", "text_encoder"):
        (file,) = (tmp_path / part).glob("*.safetensors")
        weights, metadata = load_file(file), {"format": "pt"}
        name = next(name for name in weights if "mid_block" in name or "block" in name and ".0." in name)
        save_file({each: weight for each, weight in weights.items() if each != name}, file, metadata)
        with pytest.raises(CheckpointError, match=f"1 weights are missing, unknown or misshapen, {name} for one"):
            load(ModelChoice(str(tmp_path)))
        save_file(weights, file, metadata)


@pytest.mark.slow
def test_all_that_an_edit_says_counts(models, tmp_path):
    noise = torch.rand(6, 48, 64, 3, generator=torch.Generator().manual_seed(0))
    video = write_mp4(tmp_path / "noise.mp4", [noise], Fraction(10))
    pipe = load(ModelChoice(str(models / MODEL), str(models / ENCODER), str(models / VAE), isa=None))

    def made(**changed):
        edit = Edit(**{"video": str(video), "prompt": "Add a red ball", "frames": 2, "size": (64, 48), "steps": 1, **changed})
        return pictures(edit_file(pipe, edit, tmp_path / "x.mp4", progress=False)[0])

    usual = made()
    assert np.array_equal(made(), usual)
    references = (str(picture(tmp_path)),)
    for changed in (
        {"prompt": "night"}, {"negative_prompt": "ball"}, {"seed": 1}, {"steps": 2}, {"guidance": 5.0}, {"fps": 5.0},
        {"references": references}, {"mask": references[0]}, 
    ):  # fmt: skip
        assert not np.array_equal(made(**changed), usual), changed
    boxed = {"boxes": ((8, 8, 40, 24),)}
    masked = made(**boxed)
    for changed in ({"boxes": ((8, 8, 40, 25),)}, {"feather": 0}, {"match_colors": True}):
        assert not np.array_equal(made(**boxed | changed), masked), changed
    assert not np.array_equal(made(frames=6, window=5), made(frames=6))


def test_every_option_of_a_model_is_read():
    parser = argparse.ArgumentParser()
    add_model_options(parser)
    asked = ModelChoice(
        "m", "t", "v", "fp16", "fp8", "model", "cuda:1", ISAConfig(keep_ratio=0.5), 7, ("a", "b"), 1.5, "cpu", "int8", "one"
    )
    options = "--model m --text-encoder t --vae v --dtype fp16 --storage fp8 --offload model --device cuda:1 --keep-ratio 0.5 "
    options += "--min-tokens 7 --lora a --lora b --context-refresh 1.5 --context-device cpu --context-dtype int8 "
    options += "--context-copies one"
    assert model_choice(parser.parse_args(options.split())) == asked
    assert model_choice(parser.parse_args([])) == ModelChoice()
    usual, full = (model_choice(parser.parse_args(given)) for given in ([], ["--no-isa"]))
    assert (usual.refresh, full.refresh) == (1, 0), "context reuse comes with ISA"


def test_a_model_is_held_as_chosen():
    pipe = load(ModelChoice(dtype="bf16", storage="fp8", isa=ISAConfig(keep_ratio=0.5), min_tokens=7))
    assert pipe.vae.dtype == torch.bfloat16
    assert pipe.transformer.blocks[0].ffn.net[2].weight.dtype == torch.float8_e4m3fn
    assert (pipe.transformer.attached_isa.config.keep_ratio, pipe.transformer.attached_isa.min_tokens) == (0.5, 7)


@pytest.mark.slow
def test_contexts_are_reused_with_sparse_attention_and_without(sample_video, tmp_path):
    edit = Edit(str(sample_video), "sunset", frames=5, size=(64, 48), steps=8)
    for isa in (None, ISAConfig()):
        pipe = load(ModelChoice(isa=isa, context_refresh=4, context_dtype="int8", context_copies="one"))
        _, facts = edit_file(pipe, edit, tmp_path / "edit.mp4", progress=False)
        assert "The context was computed in 4 of 16 model calls, and reused in the others; " in "\n".join(facts["isa"])


def pictures(path) -> np.ndarray:
    """The first frames, [F, H, W, 3]."""
    with av.open(str(path)) as container:
        frames = itertools.islice(container.decode(video=0), 5)
        return np.stack([frame.to_ndarray(format="rgb24") for frame in frames])


@pytest.mark.parametrize(
    "options, told",
    [
        (["missing.mp4", "p"], "There is no file missing.mp4"),
        (["VIDEO", "p", "--reference", "hat.png"], "There is no file hat.png"),
        (["VIDEO", "p", "--mask", "hat.png"], "There is no file hat.png"),
        (["VIDEO", "p", "--mask", "."], ". is a folder, where a file is needed: name the file."),
        (["VIDEO", "p", "--mask", "NOVIDEO"], "The video cannot be read"),
        (["VIDEO", "p", "--box", "2000,0,10,10"], "The mask is empty, or lies outside of the part that was edited"),
        (["VIDEO", "p", "--window", "5", "--window-overlap", "8"], "window_overlap must be shorter than the window"),
        (["VIDEO", "p", "--window-overlap", "8"], "window_overlap belongs to windows"),
        (["VIDEO", "p", "--out", "nowhere/x.mp4"], "There is no folder nowhere to write to; make it, or name another."),
        (["VIDEO", "p", "--seed", "-1"], "seed must be from 0 to"),
        (["VIDEO", "p", "--fps", "inf"], "fps must be from 0 to 1000; got inf"),
        (["VIDEO", "p", "--fps", "0"], "--fps 0 is no frame rate: leave it out for the video's own."),
        (["VIDEO"], "Name the video and say what to change, or give --repeat"),
        (["VIDEO", " "], "The prompt is empty: say what to change."),
        (["VIDEO", "p", "--lora", "no.safetensors"], "There is no LoRA no.safetensors: check the name."),
        (["VIDEO", "p", "--guidance", "nan"], "guidance must be from 0 to 100; got nan"),
        (["VIDEO", "p", "--size", "16x9000000"], "height must be from 16 to 8192"),
        (["VIDEO", "p", "--out", "x.avi"], "No format ends in .avi: take one of .mp4, .mov, .webm, .gif"),
        (["VIDEO", "p", "--model", "NOVIDEO"], "broken.mp4 is the network alone: name its text_encoder"),
        (["VIDEO", "p", "--model", "NOVIDEO", "--text-encoder", "no", "--vae", "no"], "There is no file no: check the name."),
        (["VIDEO", "p", "--model", "no.bin"], "There is no model no.bin"),
        (["VIDEO", "p", "--model", ".", "--vae", "vae.safetensors"], "There is no file vae.safetensors: check the name."),
        (["VIDEO", "p", "--model", ".", "--text-encoder", "NOVIDEO"], "broken.mp4 is truncated or no torch checkpoint"),
        (["VIDEO", "p", "--model", "."], ". holds no UMT5EncoderModel that can be loaded"),
        (["VIDEO", "p", "--lora", "NOVIDEO"], "broken.mp4 is truncated or no torch checkpoint"),
        (["VIDEO", "p", "--vae", "vae.safetensors"], "LIVEditor-tiny works with its own parts only"),
        (["VIDEO", "p", "--device", "cuda"], "device 'cuda' cannot be used"),
        (["VIDEO", "p", "--offload", "model"], "the device is the CPU"),
        (["VIDEO", "p", "--no-isa", "--keep-ratio", "0.5"], "which --no-isa turns off"),
        (["VIDEO", "p", "--keep-ratio", "2"], "keep_ratio must be a number from 0 to 1; got 2"),
        (["VIDEO", "p", "--context-refresh", "-1"], "context_refresh must be a number from 0 to 10; got -1"),
        (["NOVIDEO", "p"], "The video cannot be read"),
        (["VIDEO", "p", "--lora", "lora.safetensors"], "lora.safetensors"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(options, told, sample_video, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    named = {"VIDEO": str(sample_video), "NOVIDEO": "broken.mp4"}
    sentence = refused(["edit", *(named.get(part, part) for part in options), "--frames", "1", "--steps", "1"], capsys)
    assert sentence.startswith("liveditor edit: ") and told in sentence
    assert [path.name for path in tmp_path.iterdir()] == ["broken.mp4"]


@pytest.mark.parametrize(
    "options",
    [
        ["missing.mp4", "p"],
        ["VIDEO", "p", "--lora", "no"],
        ["VIDEO", "p", "--model", "no"],
        ["VIDEO", "p", "--out", "no/x.mp4"],
    ],
)
def test_what_is_missing_is_told_before_diffusers_is_imported(options, sample_video, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("liveditor_isa.command.edit.require", lambda *_: pytest.fail("it takes ten seconds"))
    assert "There is no" in refused(["edit", *(str(sample_video) if part == "VIDEO" else part for part in options)], capsys)


def test_a_wrong_option_is_one_line(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["edit", "a.mp4", "p", "--step", "3", "--no-such-option"])
    shown = capsys.readouterr().err
    assert ended.value.code == 2 and shown.count("\n") == 1 and "--no-such-option" in shown and "edit --help" in shown
    with pytest.raises(SystemExit):
        main(["edit", "a.mp4", "p", "--box", "1,2,0,4"])
    assert "--box: a box is x,y,width,height in pixels of the source" in capsys.readouterr().err


@pytest.mark.slow
def test_missing_packages_are_named(sample_video, tmp_path):
    code = f"""
import sys; sys.stderr = sys.stdout
from liveditor_isa.command import main
assert main(["edit", {str(sample_video)!r}, "Make it night"]) == 2
assert main(["convert", {path_of("diffusion_model")!r}, {str(tmp_path / "folder")!r}]) == 2
assert "torch._dynamo" not in sys.modules, "torch's compiler, whose import takes seconds, for which --help would wait too"
"""
    edit, convert = run_without({"av", "diffusers", "comfy"}, code).splitlines()
    assert edit.startswith("liveditor edit: av cannot be imported") and "into this Python with pip install av" in edit
    assert convert.startswith("liveditor convert: diffusers cannot be imported") and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_missing_package_names_the_extra_of_the_command(tmp_path):
    """Of each command the one that brings all that it needs, however early it is missed."""
    code = """
import sys; sys.stderr = sys.stdout
from liveditor_isa.command import main
assert main(["data", "gates"]) == 2 and main(["serve"]) == 2
"""
    data, serve = run_without({"av", "diffusers", "fastapi"}, code, ModuleNotFoundError).splitlines()
    assert data.startswith("liveditor data: av is missing") and '"liveditor-isa[data]"' in data
    assert serve.startswith("liveditor serve: fastapi is missing") and '"liveditor-isa[serve]"' in serve


# Convert.


def test_to_diffusers_and_back(tmp_path, capsys):
    source, folder, back = str(tmp_path / "plain.safetensors"), tmp_path / "transformer", tmp_path / "back.safetensors"
    save_file(plain_tiny()[0], source)
    assert main(["convert", source, str(folder)]) == 0
    model = LIVEditorTransformer3DModel.from_pretrained(folder, torch_dtype=torch.float32)
    expected = LIVEditorTransformer3DModel.from_single_file(source, torch.float32).state_dict()
    found = model.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], weight) for name, weight in expected.items())
    assert main(["convert", str(folder), str(back)]) == 0
    assert (original := load_file(source)).keys() == (again := load_file(back)).keys()
    assert all(torch.equal(again[name], weight) and again[name].dtype == weight.dtype for name, weight in original.items())
    assert "297 tensors" in capsys.readouterr().out
    assert "exists already" in refused(["convert", source, folder], capsys)


def test_a_folder_with_other_weights_is_refused(tmp_path, capsys):
    """A loader would take those."""
    model = LIVEditorTransformer3DModel.from_single_file(path_of("diffusion_model"), torch.float32)
    model.save_pretrained(tmp_path, max_shard_size="10MB")
    before = sorted(tmp_path.iterdir())
    sentence = refused(["convert", path_of("diffusion_model"), tmp_path, "--overwrite"], capsys)
    assert "The folder holds other weights (diffusion_pytorch_model-00001-of-" in sentence
    assert sorted(tmp_path.iterdir()) == before


def test_what_a_link_names_is_converted_beside_the_link(tmp_path):
    """Downloads lie in folders of such links."""
    (tmp_path / "files").mkdir()
    torch.save(bin_variants()["module"], tmp_path / "files/0123")
    (tmp_path / "liveditor_ckpt.bin").symlink_to("files/0123")
    assert main(["convert", str(tmp_path / "liveditor_ckpt.bin")]) == 0
    assert (tmp_path / "liveditor_ckpt.safetensors").is_file() and len(list((tmp_path / "files").iterdir())) == 1


@pytest.mark.parametrize("wrapping", ["module", "ema"])
def test_official_wrappings_become_a_folder(wrapping, tmp_path):
    """Also in bf16; what Wan keeps in fp32 is that again once it is loaded."""
    torch.save(bin_variants()[wrapping], tmp_path / "liveditor_ckpt.bin")
    result = save_for_diffusers(tmp_path / "liveditor_ckpt.bin", tmp_path / "transformer", "bf16")
    assert len(result.dropped) == 3 * BLOCKS
    model = LIVEditorTransformer3DModel.from_pretrained(tmp_path / "transformer", torch_dtype=torch.bfloat16)
    direct = LIVEditorTransformer3DModel.from_single_file(tmp_path / "liveditor_ckpt.bin", torch.bfloat16)
    for name, weight in direct.state_dict().items():
        found = model.state_dict()[name]
        same = torch.equal if weight.dtype == torch.bfloat16 else partial(torch.allclose, rtol=1e-2, atol=1e-3)
        assert found.dtype == weight.dtype and same(found, weight), name


def test_a_folder_in_several_files_is_one_checkpoint(tmp_path):
    model = LIVEditorTransformer3DModel.from_single_file(path_of("diffusion_model"), torch.float32)
    model.save_pretrained(tmp_path / "transformer", max_shard_size="10MB")
    assert len(list((tmp_path / "transformer").glob("*.safetensors"))) > 2
    again = LIVEditorTransformer3DModel.from_single_file(tmp_path, torch.float32)
    assert all(torch.equal(weight, model.state_dict()[name]) for name, weight in again.state_dict().items())
    next(iter((tmp_path / "transformer").glob("*00002*"))).unlink()
    with pytest.raises(CheckpointError, match="damaged or of another version: it lacks"):
        LIVEditorTransformer3DModel.from_single_file(tmp_path)


@pytest.mark.parametrize(
    "make, told",
    [
        (lambda folder: (folder / "source").mkdir(), "holds no safetensors file"),
        (lambda folder: (folder / "source").write_bytes(b"<html>"), "no torch checkpoint"),
        (lambda folder: save_file({"a": torch.ones(1)}, folder / "source"), "no torch checkpoint"),
    ],
)
def test_no_checkpoint_leaves_nothing(make, told, tmp_path, capsys):
    make(tmp_path)
    assert told in refused(["convert", tmp_path / "source", tmp_path / "folder"], capsys)
    assert not list(tmp_path.glob("folder/*"))


def test_a_damaged_weight_leaves_no_folder(tmp_path, capsys):
    weights = load_file(path_of("diffusion_model"))
    weights["head.head.bias"][3] = torch.nan
    save_file(weights, tmp_path / "nan.safetensors")
    assert "head.head.bias holds NaN" in refused(["convert", tmp_path / "nan.safetensors", tmp_path / "folder"], capsys)
    assert "new.bin would be a pickle" in refused(["convert", path_of("diffusion_model"), tmp_path / "new.bin"], capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["nan.safetensors"]


def test_files_that_comfyui_alone_reads_are_not_for_diffusers(tmp_path, capsys):
    weights, _ = plain_tiny()
    weights["blocks.0.ffn.0.weight_scale"] = torch.ones(len(weights["blocks.0.ffn.0.weight"]), 1)
    save_file(weights, tmp_path / "rows.safetensors")
    words = "rows.safetensors is quantised in a way that only ComfyUI reads: take its fp8_scaled, bf16 or fp16 file"
    assert words in refused(["convert", tmp_path / "rows.safetensors", tmp_path / "f"], capsys)
    assert not (tmp_path / "f").exists()


# Benchmark.


@pytest.mark.parametrize(
    "options, told",
    [
        (["--heads", "0"], "--heads: a whole number from 1 on; got '0'"),
        (["--frames", "-1"], "--frames: a whole number from 1 on; got '-1'"),
        (["--size", "100x64"], "--size: multiples of 16; got 100×64"),
        (["--size", "big"], "--size: width and height, as in 832x480; got 'big'"),
    ],
)
def test_bad_numbers_are_refused(options, told, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["benchmark", *options])
    assert ended.value.code == 2 and told in capsys.readouterr().err


def test_the_benchmark_tells_both_times(capsys):
    assert main(["benchmark", "--size", "96x64", "--frames", "9", "--heads", "1", "--turns", "1", "--keep-ratio", "0.5"]) == 0
    shown = capsys.readouterr().out
    assert "96×64, 9 frames: 144 tokens with the edit, 1 heads" in shown
    times = [float(each) for each in re.findall(r"([\d.]+) ms   \(", shown)]
    ratio = float(re.search(r"ISA is ([\d.]+) times as fast", shown)[1])
    assert len(times) == 2 and ratio == pytest.approx(times[0] / times[1], rel=0.2, abs=0.06)  # all are shown to one decimal
    assert "of its arithmetic, on torch (" in shown
