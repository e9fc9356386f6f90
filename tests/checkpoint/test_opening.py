"""Opening checkpoints: every format gives the same weights; what is damaged, foreign or malicious is refused in a sentence."""

import json
import os
import pickle
import re
import struct
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from liveditor_isa.checkpoint.keys import CheckpointError, check_keys, expected_shapes
from liveditor_isa.checkpoint.opening import open_checkpoint, read_header
from make_tiny_model import bin_variants, random_like
from safetensors.torch import save_file

# Torch warns of some of the damage done here before it gives up on it.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

VARIANTS = bin_variants()
SMALL = random_like(expected_shapes(16, 32, 8, 1), seed=0)
FORMATS = ["zip.bin", "legacy.bin", "whole.safetensors"]

# A file is written anew for each example.
fuzz = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def save(content, path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=not path.name.startswith("legacy"))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    message = str(caught.value)
    assert path.name in message and "\n" not in message and message.endswith(".")
    return message


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    """The small model in each format, as bytes."""
    folder = tmp_path_factory.mktemp("whole")
    return {name: save(SMALL, folder / name).read_bytes() for name in FORMATS}


# What is whole.


@pytest.mark.parametrize("format", ["zip.bin", "legacy.bin"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_wrapping_opens_with_equal_weights(weights, tmp_path, variant, format):
    checkpoint = open_checkpoint(save(VARIANTS[variant], tmp_path / format))
    assert_same(checkpoint, weights)
    assert len(checkpoint.notes) == (variant == "ema")


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("ending", ["safetensors", "sft", "SAFETENSORS"])
def test_safetensors_opens_with_equal_weights(weights, tmp_path, prefix, ending):
    save_file({prefix + name: weight for name, weight in weights.items()}, tmp_path / f"model.{ending}", {"licence": "none"})
    checkpoint = open_checkpoint(str(tmp_path / f"model.{ending}"))
    assert_same(checkpoint, weights)
    assert read_header(tmp_path / f"model.{ending}").metadata == {"licence": "none"}


TYPES = [torch.float64, torch.float16, torch.bfloat16, torch.uint8]


# Torch cannot read fp8 from its own old format.
@pytest.mark.parametrize(
    "format, dtype",
    [(format, dtype) for format in FORMATS for dtype in TYPES]
    + [("zip.bin", torch.float8_e4m3fn), ("whole.safetensors", torch.float8_e4m3fn)],
)
def test_types_and_shapes_are_the_files(tmp_path, format, dtype):
    content = {
        "matrix": torch.arange(6).view(2, 3).to(dtype),
        "scalar": torch.ones((), dtype=dtype),
        "empty": torch.ones(0, 3).to(dtype),
    }
    assert_same(open_checkpoint(save(content, tmp_path / format)), content)


def assert_same(checkpoint, weights):
    """Bit for bit."""
    assert checkpoint.shapes == {name: tuple(weight.shape) for name, weight in weights.items()}
    opened = checkpoint.tensors()
    assert opened.keys() == weights.keys()
    for name, weight in weights.items():
        assert opened[name].dtype == weight.dtype and opened[name].shape == weight.shape
        assert torch.equal(opened[name].reshape(-1).view(torch.uint8), weight.reshape(-1).view(torch.uint8)), name


# What is cut short or damaged.


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kept", [0, 1, 2, 7, 8, 9, 64, 100, 1000, 0.25, 0.5, 0.75, -1000, -100, -8, -2, -1])
def test_a_truncated_file_is_refused(whole, tmp_path, format, kept):
    data = whole[format]
    path = tmp_path / format
    path.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    assert "truncated" in refusal(path) or 0 <= kept < 8
    assert "download it again" in refusal(path).lower()


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_cut_anywhere_is_refused(whole, tmp_path, format):
    data = whole[format]
    path = tmp_path / format

    @settings(fuzz, max_examples=40)
    @given(st.integers(0, len(data) - 1))
    @example(18)  # of the legacy format: ends inside a number, where torch raises struct.error
    def cut(length):
        path.write_bytes(data[:length])
        refusal(path)

    cut()


def test_a_truncated_safetensors_file_tells_how_much_is_there(whole, tmp_path):
    data = whole["whole.safetensors"]
    path = tmp_path / "short.safetensors"
    path.write_bytes(data[:-1])
    assert f"{len(data) - 1:,} of {len(data):,} bytes" in refusal(path)


@pytest.mark.parametrize("format", FORMATS)
def test_damage_at_the_beginning_is_refused_or_not_seen(whole, tmp_path, format):
    """Whatever a few wrong bytes make of the structure, no exception of the libraries' comes through."""
    path = tmp_path / format

    @settings(fuzz, max_examples=100)
    @given(st.dictionaries(st.integers(0, 1500), st.integers(0, 255), min_size=1, max_size=4))
    def damage(changes):
        data = bytearray(whole[format])
        for place, value in changes.items():
            data[place] = value
        path.write_bytes(data)
        try:
            open_checkpoint(path).tensors()
        except CheckpointError as error:
            assert path.name in str(error)

    damage()


def test_a_legacy_file_whose_storages_are_misnamed_is_refused(whole, tmp_path):
    """Torch raises an AssertionError for it."""
    data = whole["legacy.bin"]
    key = re.search(rb"\d{12,}", data)[0]  # first where the weight is described, last where its storage begins
    described, storage = data.rsplit(key, 1)
    path = tmp_path / "legacy.bin"
    path.write_bytes(described + b"0" * len(key) + storage)
    assert "truncated or no torch checkpoint" in refusal(path)


def header_file(path: Path, header: bytes, body: bytes = bytes(64)) -> Path:
    path.write_bytes(struct.pack("<Q", len(header)) + header + body)
    return path


@settings(fuzz, max_examples=100)
@given(st.binary(max_size=200))
def test_a_header_of_random_bytes_is_refused(tmp_path, header):
    refusal(header_file(tmp_path / "random.safetensors", header))
    path = tmp_path / "no-length.safetensors"
    path.write_bytes(header)
    refusal(path)


sizes = st.one_of(
    st.integers(-4, 200), st.sampled_from([2**31, 2**32 - 64, 2**62, 2**63, 2**64, 2**64 - 64, -(2**63), 10**4290])
)
anything = st.recursive(
    st.none() | st.booleans() | sizes | st.floats(allow_nan=True) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=6,
)
# From nearly right to wholly wrong; never right, because all 64 bytes belong to another weight, and this one is not empty.
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F32", "F16", "F4", "I8", "X9", ""]) | anything,
        "shape": (st.lists(sizes, max_size=3) | anything).filter(lambda shape: not (isinstance(shape, list) and 0 in shape)),
        "data_offsets": st.tuples(sizes, sizes) | anything,
    }
)
right = {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}


@settings(fuzz, max_examples=200)
@given(entries | anything)
@example({"dtype": "F32", "shape": [16], "data_offsets": [-64, 0]})
@example({"dtype": "F32", "shape": [16], "data_offsets": [0, 64]})
@example({"dtype": "F32", "shape": [16], "data_offsets": [64, 128]})
@example({"dtype": "F32", "shape": [16], "data_offsets": [2**62, 2**62 + 64]})
@example({"dtype": "F32", "shape": [16], "data_offsets": [10**4300 - 65, 10**4300 - 1]})
@example({"dtype": "F32", "shape": [2**62, 2**62, 0], "data_offsets": [64, 64]})
@example({"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]})
@example({"dtype": "F32", "shape": [-4, -4], "data_offsets": [0, 64]})
@example({"dtype": "F32", "shape": [True], "data_offsets": [64, 68]})
@example({"dtype": [], "shape": [16], "data_offsets": [0, 64]})
def test_a_header_with_a_wrong_entry_is_refused(tmp_path, entry):
    refusal(header_file(tmp_path / "entry.safetensors", json.dumps({"right": right, "wrong": entry}).encode()))


@settings(fuzz, max_examples=100)
@given(anything)
def test_a_header_that_is_any_json_is_refused(tmp_path, header):
    refusal(header_file(tmp_path / "json.safetensors", json.dumps(header).encode()))


@pytest.mark.parametrize("metadata", [5, [1], {"format": 1}, {"format": None}, "text"])
def test_metadata_that_is_no_text_is_refused(tmp_path, metadata):
    path = header_file(tmp_path / "metadata.safetensors", json.dumps({"__metadata__": metadata, "right": right}).encode())
    refusal(path)
    with pytest.raises(CheckpointError):
        read_header(path)


def test_other_headers_that_lie_are_refused(tmp_path, whole):
    path = tmp_path / "lying.safetensors"
    refusal(header_file(path, b"[" * 100_000))
    refusal(header_file(path, json.dumps({"right": right}).encode(), bytes(65)))
    refusal(header_file(path, json.dumps({"right\ud800": right}).encode()))
    for length in (2**64 - 1, 2**63, 10**8 + 1, 10**8):
        path.write_bytes(struct.pack("<Q", length) + whole["whole.safetensors"][8:])
        refusal(path)


# What is something else.


@pytest.mark.parametrize("name", ["none.bin", "none.safetensors"])
def test_a_missing_file_is_called_missing(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=name):
        open_checkpoint(tmp_path / name)


@pytest.mark.parametrize("name", ["folder", "folder.bin", "folder.safetensors"])
def test_a_folder_is_called_a_folder(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(CheckpointError, match=f"The folder .*{name} holds no safetensors file"):
        open_checkpoint(tmp_path / name)


@pytest.mark.parametrize("name", ["page.bin", "page.safetensors"])
@pytest.mark.parametrize(
    "content", [b"<!DOCTYPE html><html>404 not found</html>", b"version https://git-lfs.github.com/spec/v1\noid"]
)
def test_a_download_that_failed_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert "download it again" in refusal(tmp_path / name)


def test_a_safetensors_file_named_bin_is_refused(whole, tmp_path):
    (tmp_path / "model.bin").write_bytes(whole["whole.safetensors"])
    refusal(tmp_path / "model.bin")


def test_a_torchscript_archive_is_refused(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "script.bin")
    refusal(tmp_path / "script.bin")


@pytest.mark.parametrize("format", ["zip.bin", "legacy.bin"])
@pytest.mark.parametrize("content", [[torch.ones(2)], torch.ones(2), "text", 5, None, (1, {"a": torch.ones(2)})])
def test_a_pickle_of_something_else_is_called_what_it_is(tmp_path, format, content):
    assert f"holds a {type(content).__name__}" in refusal(save(content, tmp_path / format))


@pytest.mark.parametrize("format", ["zip.bin", "legacy.bin"])
@pytest.mark.parametrize("content", [{}, {"epoch": 3}, {0: torch.ones(2)}, {("a", 1): torch.ones(2), None: torch.ones(1)}])
def test_a_dictionary_without_named_weights_is_no_liveditor(tmp_path, format, content):
    with pytest.raises(CheckpointError, match="not a LIVEditor checkpoint"):
        check_keys(open_checkpoint(save(content, tmp_path / format)).shapes)


def test_a_dictionary_that_contains_itself_is_no_liveditor(tmp_path):
    content = {"a": torch.ones(2)}
    content["state_dict"] = content
    assert open_checkpoint(save(content, tmp_path / "loop.bin")).shapes == {"a": (2,)}


def test_what_is_no_weight_is_ignored(tmp_path):
    content = {"epoch": 3, "note": "text", "betas": [0.9, 0.999], **SMALL}
    check_keys(open_checkpoint(save(content, tmp_path / "mixed.bin")).shapes)


def test_parameters_open_as_weights(tmp_path):
    parameters = {name: torch.nn.Parameter(weight) for name, weight in SMALL.items()}
    assert_same(open_checkpoint(save(parameters, tmp_path / "parameters.bin")), SMALL)


# What would run code.


class Command:
    """Its pickle calls `function` when it is loaded."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def commands(marker: Path) -> dict[str, Command]:
    return {
        "system": Command(os.system, f"touch {marker}"),
        "exec": Command(exec, f"open({str(marker)!r}, 'w').close()"),
        "open": Command(open, str(marker), "w"),
        "subprocess": Command(subprocess.check_call, ["touch", str(marker)]),
        "load": Command(pickle.loads, pickle.dumps(Command(os.system, f"touch {marker}"))),
    }


@pytest.mark.parametrize("format", ["zip.bin", "legacy.bin"])
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("kind", commands(Path()))
def test_code_in_a_pickle_never_runs_and_that_is_said(tmp_path, format, inside, kind):
    marker = tmp_path / "marker"
    command = commands(marker)[kind]
    path = save({"state_dict": {**SMALL, "extra": command}} if inside else command, tmp_path / format)
    assert "holds code besides weights and was not opened" in refusal(path)
    assert not marker.exists()

    torch.load(path, weights_only=False)
    assert marker.exists(), "the pickle must be a working attack"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_in_a_bare_pickle_never_runs(tmp_path, protocol):
    marker = tmp_path / "marker"
    (tmp_path / "bare.bin").write_bytes(pickle.dumps(commands(marker)["system"], protocol))
    refusal(tmp_path / "bare.bin")
    assert not marker.exists()
