"""Load LIVEditor's own decisions: which file is read, what is converted, what core is told."""

import json
import os
import shutil

import pytest
import torch
from liveditor_isa.checkpoint.keys import CheckpointError, check_keys, expected_shapes
from liveditor_isa.comfyui.architecture import register
from liveditor_isa.comfyui.loaders import converted, load_diffusion_model, load_text_encoder, load_vae, read_diffusion_model
from make_tiny_model import ENCODER, MODEL, VAE, random_like
from safetensors.torch import save_file


@pytest.fixture
def pickle(models, tmp_path):
    return shutil.copy(models / MODEL, tmp_path / "liveditor_ckpt.bin")


def test_a_pickle_is_converted_once(pickle, tmp_path):
    target = tmp_path / "liveditor_ckpt.safetensors"
    assert converted(str(pickle)) == str(target)
    first = target.stat().st_mtime_ns
    assert converted(str(pickle)) == str(target) and target.stat().st_mtime_ns == first
    # Its date tells nothing: a copy may be newer than what it was copied from, another file older than its conversion.
    os.utime(pickle, (target.stat().st_mtime + 10,) * 2)
    assert converted(str(pickle)) == str(target) and target.stat().st_mtime_ns == first
    torch.save(random_like(expected_shapes(16, 32, 8, 1), seed=1), pickle)
    os.utime(pickle, (0, 0))
    assert converted(str(pickle)) == str(target) and target.stat().st_mtime_ns != first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["liveditor_ckpt.bin", "liveditor_ckpt.safetensors"]


@pytest.mark.parametrize("damaged", [False, True])
def test_somebody_elses_file_of_that_name_is_kept(pickle, tmp_path, caplog, damaged):
    theirs = tmp_path / "liveditor_ckpt.safetensors"
    save_file({"x": torch.ones(2)}, theirs)
    if damaged:
        theirs.write_bytes(theirs.read_bytes()[:-1])
    before = theirs.read_bytes()
    assert converted(str(pickle)) == str(pickle)
    assert theirs.read_bytes() == before and "stays as it is" in caplog.text


def test_where_nothing_can_be_written_the_pickle_is_loaded(pickle, monkeypatch, caplog):
    def full(*args, **kwargs):
        raise OSError(28, "The disk is full")

    monkeypatch.setattr("liveditor_isa.comfyui.loaders.convert_checkpoint", full)
    register()
    model = load_diffusion_model(str(pickle))
    assert "loaded directly instead" in caplog.text and model.model.diffusion_model.dim == 256


def test_directly_and_converted_are_the_same_model(pickle):
    register()
    direct = load_diffusion_model(str(pickle), convert=False).model.diffusion_model.state_dict()
    through_file = load_diffusion_model(str(pickle)).model.diffusion_model.state_dict()
    assert direct.keys() == through_file.keys()
    assert all(torch.equal(direct[name], through_file[name]) for name in direct)


def test_core_is_told_of_quantised_layers_by_official_names(weights, tmp_path):
    prefixed = {f"model.diffusion_model.{name}": weight for name, weight in weights.items()}
    layers = {"model.diffusion_model.blocks.0.ffn.0": {"format": "float8_e4m3fn"}}
    metadata = {"_quantization_metadata": json.dumps({"layers": layers})}
    save_file(prefixed, tmp_path / "prefixed.safetensors", metadata)
    _, told = read_diffusion_model(str(tmp_path / "prefixed.safetensors"))
    assert json.loads(told["_quantization_metadata"]) == {"layers": {"blocks.0.ffn.0": {"format": "float8_e4m3fn"}}}


def test_a_truncated_model_of_the_official_size_is_noticed():
    with pytest.raises(CheckpointError, match=r"lacks blocks\.39\."):
        check_keys(expected_shapes(5120, 13824, 4096, 39))
    check_keys(expected_shapes(5120, 13824, 4096, 40))


def test_the_small_encoder_reads_text_and_the_vae_is_wans(models):
    clip = load_text_encoder(str(models / ENCODER))
    short, long = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("Add a red ball", "Let it rain"))
    assert short[0][0].shape[2] == 64 and not torch.equal(short[0][0], long[0][0])
    copy = clip.patcher.cached_patcher_init[0](*clip.patcher.cached_patcher_init[1])
    assert copy.model_size() == clip.patcher.model_size()
    vae = load_vae(str(models / VAE))
    assert vae.decode(torch.zeros(1, 16, 2, 4, 6)).shape == (1, 5, 32, 48, 3)
