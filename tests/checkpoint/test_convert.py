"""Conversion: equal weights in, whole files out or none, little memory, and one sentence for whatever goes wrong."""

import errno
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from liveditor_isa.checkpoint import convert
from liveditor_isa.checkpoint.convert import convert_checkpoint
from liveditor_isa.checkpoint.keys import CheckpointError, core_metadata, expected_shapes, is_dead_weight
from liveditor_isa.checkpoint.opening import read_header
from liveditor_isa.command import main as liveditor
from make_tiny_model import bin_variants, random_like
from safetensors import safe_open
from safetensors.torch import load_file, save_file

VARIANTS = bin_variants()
SMALL = random_like(expected_shapes(16, 32, 64, 1), seed=0)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
MIB = 2**20


def main(arguments: list[str]) -> int:
    return liveditor(["convert", *arguments])


@pytest.fixture
def source(tmp_path) -> Path:
    """The small model as a pickle, alone in a folder."""
    folder = tmp_path / "source"
    folder.mkdir()
    torch.save(SMALL, folder / "small.bin")
    return folder / "small.bin"


@pytest.fixture
def target(tmp_path) -> Path:
    """Where to write, in an empty folder."""
    folder = tmp_path / "target"
    folder.mkdir()
    return folder / "model.safetensors"


def bits(weight: torch.Tensor) -> torch.Tensor:
    return weight.flatten().contiguous().view(torch.uint8)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))


def contents(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def assert_holds(path: Path, weights: dict[str, torch.Tensor]):
    written = contents(path)
    assert written.keys() == weights.keys()
    assert [name for name, weight in weights.items() if not same_bits(written[name], weight)] == []


def entries(path: Path) -> tuple[dict, int]:
    """The header as it stands in the file, and where the weights begin."""
    data = path.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:begin]), begin


def files_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


# What is written.


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_wrapping_converts_to_equal_weights(weights, tmp_path, target, variant, legacy):
    torch.save(VARIANTS[variant], tmp_path / "any.bin", _use_new_zipfile_serialization=not legacy)
    result = convert_checkpoint(tmp_path / "any.bin", target)
    used = {name: weight for name, weight in weights.items() if not is_dead_weight(name)}
    assert_holds(target, used)
    assert sorted(result.dropped) == sorted(weights.keys() - used.keys()) and len(result.dropped) == 3 * 4
    assert (result.path, result.tensors, result.bytes) == (target, len(used), target.stat().st_size)
    assert len(result.notes) == (variant == "ema")
    assert files_in(target.parent) == ["model.safetensors"]


def test_core_reads_what_was_written(weights, tmp_path, target):
    import comfy.utils

    torch.save(VARIANTS["module"], tmp_path / "any.bin")
    convert_checkpoint(tmp_path / "any.bin", target)
    read, metadata = comfy.utils.load_torch_file(str(target), return_metadata=True)
    assert read.keys() == {name for name in weights if not is_dead_weight(name)}
    assert all(same_bits(weight, weights[name]) for name, weight in read.items())
    assert json.loads(metadata["config"])["transformer"]["text_dim"] == 64


@pytest.mark.parametrize("slice_bytes", [convert.SLICE_BYTES, 400])
@pytest.mark.parametrize("dtype", ["keep", *DTYPES])
@pytest.mark.parametrize("own", DTYPES.values())
def test_weights_are_cast_as_asked_however_they_are_sliced(tmp_path, target, monkeypatch, own, dtype, slice_bytes):
    monkeypatch.setattr(convert, "SLICE_BYTES", slice_bytes)
    weights = {name: weight.to(own) for name, weight in SMALL.items()}
    torch.save(weights, tmp_path / "own.bin")
    convert_checkpoint(tmp_path / "own.bin", target, dtype)
    assert_holds(target, {name: weight.to(DTYPES.get(dtype, own)) for name, weight in weights.items()})


@pytest.mark.slow
def test_strided_weights_are_written_in_reading_order(tmp_path, target, monkeypatch):
    monkeypatch.setattr(convert, "SLICE_BYTES", 1)
    shapes = {name: weight.shape for name, weight in SMALL.items()}
    weights = {name: weight.mT.contiguous().mT if weight.ndim == 2 else weight for name, weight in SMALL.items()}
    weights["head.head.bias"] = torch.tensor(0.5).expand(shapes["head.head.bias"])
    assert not weights["blocks.0.ffn.0.weight"].is_contiguous()
    torch.save(weights, tmp_path / "strided.bin")
    convert_checkpoint(tmp_path / "strided.bin", target)
    assert_holds(target, weights)


def fp8_weights() -> dict[str, torch.Tensor]:
    """Like the scaled fp8 files that users have, in the older and the newer manner."""
    weights = dict(SMALL)
    for layer in ("blocks.0.ffn.0", "blocks.0.self_attn.q"):
        weights[f"{layer}.weight"] = weights[f"{layer}.weight"].to(torch.float8_e4m3fn)
        weights[f"{layer}.scale_weight"] = torch.tensor(1.7)
    weights["blocks.0.ffn.2.weight"] = weights["blocks.0.ffn.2.weight"].to(torch.float8_e5m2)
    weights["blocks.0.ffn.2.comfy_quant"] = torch.tensor(list(b'{"format": "float8_e5m2"}'), dtype=torch.uint8)
    weights["blocks.0.ffn.2.weight_scale"] = torch.full((1,), 1.3)
    weights["blocks.0.ffn.2.input_scale"] = torch.tensor(3, dtype=torch.int64)
    weights["scaled_fp8"] = torch.empty(0, dtype=torch.float8_e4m3fn)
    return weights


@pytest.mark.parametrize("dtype", ["keep", *DTYPES])
def test_quantised_entries_keep_their_type(tmp_path, target, dtype):
    weights = fp8_weights()
    torch.save(weights, tmp_path / "fp8.bin")
    convert_checkpoint(tmp_path / "fp8.bin", target, dtype)
    quantised = {name for name, weight in weights.items() if weight.dtype != torch.float32 or "scale" in name}
    assert len(quantised) == 9
    cast = DTYPES.get(dtype, torch.float32)
    assert_holds(target, {name: weight if name in quantised else weight.to(cast) for name, weight in weights.items()})


@pytest.mark.parametrize("wrapping", ["{}", "model.diffusion_model.{}", "module.{}"])
def test_where_quantisation_is_told_in_the_metadata_it_stays_told(tmp_path, target, wrapping):
    layers = {wrapping.format("blocks.0.ffn.0"): {"format": "float8_e4m3fn"}}
    weights = {wrapping.format(name): weight for name, weight in fp8_weights().items() if "comfy_quant" not in name}
    save_file(weights, tmp_path / "fp8.safetensors", {"_quantization_metadata": json.dumps({"layers": layers})})
    convert_checkpoint(tmp_path / "fp8.safetensors", target, "bf16")
    written = read_header(target).metadata["_quantization_metadata"]
    assert json.loads(written) == {"layers": {"blocks.0.ffn.0": {"format": "float8_e4m3fn"}}}


@pytest.mark.parametrize("told", ["{", "5", "{}", '{"layers": []}', '{"layers": {"blocks.7.ffn.0": {}}}'])
def test_nonsense_about_quantisation_is_refused(tmp_path, target, told):
    save_file(SMALL, tmp_path / "nonsense.safetensors", {"_quantization_metadata": told})
    with pytest.raises(CheckpointError, match="says wrongly which of its layers are quantised"):
        convert_checkpoint(tmp_path / "nonsense.safetensors", target)
    assert files_in(target.parent) == []


@pytest.mark.parametrize("dtype", [torch.complex64, torch.bool, torch.uint16])
def test_a_type_that_no_model_uses_is_refused(tmp_path, target, dtype):
    torch.save(SMALL | {"head.head.bias": torch.ones(64).to(dtype)}, tmp_path / "odd.bin")
    with pytest.raises(CheckpointError, match=f"head.head.bias is of type {dtype}"):
        convert_checkpoint(tmp_path / "odd.bin", target)
    assert files_in(target.parent) == []


# The file's header.


def test_metadata_tells_core_the_text_width_where_it_is_unusual(source, target):
    convert_checkpoint(source, target)
    metadata = read_header(target).metadata
    assert json.loads(metadata["config"]) == {"transformer": {"text_dim": 64}}
    assert (metadata["format"], metadata["source_file"]) == ("pt", "small.bin")
    assert core_metadata({"text_embedding.0.weight": (16, 64)}) == {"config": metadata["config"]}
    assert core_metadata({"text_embedding.0.weight": (5120, 4096)}) == {}


@pytest.mark.parametrize("name", ["small.bin", *(f"{'x' * length}.bin" for length in range(1, 9))])
def test_weights_begin_aligned(source, target, name):
    """Whatever the header's length; and every weight at a multiple of its own type's size, which core's mapped reads need."""
    torch.save(fp8_weights(), source.with_name(name))
    convert_checkpoint(source.with_name(name), target)
    header, begin = entries(target)
    assert begin % 8 == 0
    del header["__metadata__"]
    sizes = {"I64": 8, "F32": 4, "F8_E4M3": 1, "F8_E5M2": 1, "U8": 1}
    assert [name for name, entry in header.items() if entry["data_offsets"][0] % sizes[entry["dtype"]]] == []


def test_converting_again_changes_nothing(source, target):
    first, second = target.with_name("first") / target.name, target.with_name("second") / target.name
    convert_checkpoint(source, target)
    for before, after in ((target, first), (first, second)):
        after.parent.mkdir()
        convert_checkpoint(before, after)
    assert_holds(first, SMALL)
    assert first.read_bytes() == second.read_bytes()


def test_the_source_stays_as_it_is(source, target):
    before = source.read_bytes(), source.stat().st_mtime_ns
    convert_checkpoint(source, target, "bf16")
    assert (source.read_bytes(), source.stat().st_mtime_ns) == before
    assert files_in(source.parent) == ["small.bin"]


# Progress.


@pytest.mark.parametrize("slice_bytes", [convert.SLICE_BYTES, 400])
@pytest.mark.parametrize("dtype", ["keep", "bf16"])
def test_progress_grows_to_the_total(source, target, monkeypatch, dtype, slice_bytes):
    monkeypatch.setattr(convert, "SLICE_BYTES", slice_bytes)
    calls = []
    convert_checkpoint(source, target, dtype, progress=lambda *call: calls.append(call))
    done, totals = zip(*calls)
    assert all(before <= after for before, after in zip(done, done[1:])) and done[0] > 0
    assert set(totals) == {done[-1]} == {target.stat().st_size - entries(target)[1]}
    assert len(calls) == sum(math.ceil(4 * weight.numel() / slice_bytes) for weight in SMALL.values())


# What stops it.


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("own", [torch.float32, torch.bfloat16, torch.float8_e5m2])
@pytest.mark.parametrize("name", ["patch_embedding.weight", "head.head.weight"])
def test_a_broken_weight_is_named_and_nothing_is_left(tmp_path, target, monkeypatch, name, own, value):
    monkeypatch.setattr(convert, "SLICE_BYTES", 400)
    weights = SMALL | {name: SMALL[name].to(own, copy=True)}
    weights[name].view(-1)[-1] = value
    torch.save(weights, tmp_path / "broken.bin")
    with pytest.raises(CheckpointError, match=rf"{name} holds NaN or infinity.*download it again"):
        convert_checkpoint(tmp_path / "broken.bin", target)
    assert files_in(target.parent) == []


def test_a_broken_weight_that_is_not_used_does_no_harm(tmp_path, target):
    torch.save(SMALL | {"blocks.0.cross_attn.alpha_1.weight": torch.full((1, 16), torch.nan)}, tmp_path / "dead.bin")
    assert convert_checkpoint(tmp_path / "dead.bin", target).dropped == ["blocks.0.cross_attn.alpha_1.weight"]
    assert_holds(target, SMALL)


def test_a_weight_too_large_for_fp16_is_named_and_bf16_suggested(tmp_path, target):
    weights = SMALL | {"head.head.bias": torch.full((64,), 70000.0)}
    torch.save(weights, tmp_path / "large.bin")
    with pytest.raises(CheckpointError, match=r"head\.head\.bias is too large for fp16: convert to bf16"):
        convert_checkpoint(tmp_path / "large.bin", target, "fp16")
    assert files_in(target.parent) == []
    convert_checkpoint(tmp_path / "large.bin", target, "bf16")
    assert contents(target)["head.head.bias"][0] == torch.tensor(70000.0).bfloat16()


def test_a_wrong_checkpoint_is_refused_before_anything_is_written(tmp_path, target):
    torch.save({name: weight for name, weight in SMALL.items() if name != "head.head.bias"}, tmp_path / "partial.bin")
    with pytest.raises(CheckpointError, match=r"lacks head\.head\.bias"):
        convert_checkpoint(tmp_path / "partial.bin", target, progress=lambda *_: pytest.fail("it wrote"))
    assert files_in(target.parent) == []


def test_an_existing_file_is_kept_unless_overwriting_is_asked(source, target):
    target.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match=target.name):
        convert_checkpoint(source, target)
    assert target.read_bytes() == b"precious"
    convert_checkpoint(source, target, overwrite=True)
    assert_holds(target, SMALL)


def test_a_failure_while_overwriting_keeps_the_old_file(tmp_path, target):
    target.write_bytes(b"precious")
    weights = SMALL | {"head.head.weight": torch.full((64, 16), torch.nan)}
    torch.save(weights, tmp_path / "broken.bin")
    with pytest.raises(CheckpointError):
        convert_checkpoint(tmp_path / "broken.bin", target, overwrite=True)
    assert target.read_bytes() == b"precious"
    assert files_in(target.parent) == ["model.safetensors"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_leaves_nothing(source, target, error):
    def progress(done, total):
        raise error

    with pytest.raises(error):
        convert_checkpoint(source, target, progress=progress)
    assert files_in(target.parent) == []


def test_the_file_appears_under_its_name_when_it_is_whole(source, target):
    seen = set()

    def progress(done, total):
        (file,) = target.parent.iterdir()
        seen.add((file.name, file.stat().st_ino))

    convert_checkpoint(source, target, progress=progress)
    ((name, number),) = seen
    assert name != target.name and number == target.stat().st_ino, "it must be renamed, not copied"


def test_the_remains_of_a_killed_run_go_first(source, target, monkeypatch):
    """They may be what fills the disk."""
    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        convert_checkpoint(source, target, progress=lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    (remains,) = files_in(target.parent)
    with pytest.raises(FileExistsError, match="Another conversion writes this file"):
        convert_checkpoint(source, target)
    os.utime(target.parent / remains, (0, 0))

    def usage(folder):
        return shutil._ntuple_diskusage(10**9, 10**9, 0 if remains in files_in(target.parent) else 10**9)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    convert_checkpoint(source, target)
    assert files_in(target.parent) == ["model.safetensors"]


def test_a_source_is_not_overwritten_by_accident(source):
    convert_checkpoint(source, source.with_suffix(".safetensors"))
    both = source.with_suffix(".safetensors")
    before = both.read_bytes()
    with pytest.raises(FileExistsError):
        convert_checkpoint(both, both, "bf16")
    assert main([str(both), "--dtype", "bf16"]) == 2, "without a destination it would be the source"
    assert both.read_bytes() == before
    # Asked for, it works although the source is mapped while its successor is written.
    convert_checkpoint(both, both, "bf16", overwrite=True)
    assert_holds(both, {name: weight.bfloat16() for name, weight in SMALL.items()})
    assert files_in(source.parent) == ["small.bin", "small.safetensors"]


def test_a_pickle_is_not_replaced_by_safetensors_under_its_name(source):
    before = source.read_bytes()
    for destination in (source, source.with_name("other.bin"), source.parent):
        with pytest.raises(CheckpointError, match=r"ending \.safetensors"):
            convert_checkpoint(source, destination, overwrite=True)
    assert source.read_bytes() == before and files_in(source.parent) == ["small.bin"]


# A full disk.


def test_too_little_room_is_told_before_writing(source, target, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 100, 0))
    with pytest.raises(OSError, match="The disk is full: 0 MB are free") as caught:
        convert_checkpoint(source, target, progress=lambda *_: pytest.fail("it wrote"))
    assert caught.value.errno == errno.ENOSPC
    assert files_in(target.parent) == []


# All but the first claim room, as a quota or another writer does, so that writing itself fails.
ON_A_FULL_DISK = """
import json, shutil, sys
from pathlib import Path
from liveditor_isa.command import main
source, target = sys.argv[1], Path(sys.argv[2], "out.safetensors")
real, calls = shutil.disk_usage, []
def claimed(folder):
    calls.append(folder)
    return shutil._ntuple_diskusage(10**9, 0, 10**9) if len(calls) == 1 else real(folder)
for when in "before", "while writing", "while overwriting":
    calls.clear()
    if when != "before":
        shutil.disk_usage = claimed
    if when == "while overwriting":
        target.write_text("precious")
    status = main(["convert", source, str(target), *(["--overwrite"] if when == "while overwriting" else [])])
    left = {each.name: each.read_text() for each in target.parent.iterdir()}
    print(json.dumps([when, status, len(calls), left]), flush=True)
    print("|", file=sys.stderr, flush=True)
sys.exit(status)
"""


@pytest.mark.slow
def test_a_disk_that_is_really_full(tmp_path):
    """A tmpfs of 4 MB, for a model of 12: before writing, while it writes, and while it writes over another file."""
    torch.save(VARIANTS["bare"], tmp_path / "tiny.bin")
    folder = tmp_path / "full"
    folder.mkdir()
    mount = f"mount -t tmpfs -o size=4m tmpfs {shlex.quote(str(folder))}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True).returncode != 0:
        pytest.skip("this machine does not permit mounting in a namespace of one's own")
    convert = shlex.join([sys.executable, "-c", ON_A_FULL_DISK, str(tmp_path / "tiny.bin"), str(folder)])
    done = subprocess.run(["unshare", "-rm", "sh", "-c", f"{mount} && {convert}"], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        ["before", 2, 0, {}], ["while writing", 2, 2, {}], ["while overwriting", 2, 2, {"out.safetensors": "precious"}],
    ]  # fmt: skip
    for told in done.stderr.split("|\n")[:-1]:
        # Above it stands at most the progress bar, which shares the stream.
        *bar, sentence = told.strip().split("\n")
        assert re.search(r"^liveditor convert: .*The disk is full: [1-4]?\d MB are free, .* needed\. Make room", sentence)
        assert all("out.safetensors: " in line for line in bar) and "Traceback" not in told


# Memory.

CONVERT = """
import sys
from liveditor_isa.checkpoint import convert
import torch
source, target, dtype, convert.SLICE_BYTES = *sys.argv[1:4], int(sys.argv[4])
torch.isfinite(torch.ones(10**6)).all()
print("ready", flush=True)
sys.stdin.readline()
convert.convert_checkpoint(source, target, dtype)
"""


def anonymous_memory(process: subprocess.Popen) -> int:
    """Bytes that are no mapped file; those the system takes back when it wants to."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    match = re.search(r"RssAnon:\s+(\d+) kB", status)
    return 1024 * int(match[1]) if match else 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize(
    "ending, own, dtype, strided",
    [
        ("bin", "fp32", "bf16", False),
        ("bin", "bf16", "fp32", False),
        ("bin", "fp32", "keep", True),
        ("safetensors", "fp32", "keep", False),
    ],
)
def test_memory_stays_far_below_the_file(tmp_path, ending, own, dtype, strided):
    """A weight that lies in order is mapped and never whole in memory, so that only slices count.

    Bound: ten slices. One lives at most five times at once (its absolute values and masks while it is checked; cast; as bytes;
    as the bytes before) and malloc may keep as much again. Only a weight that lies out of order, which happens in pickles
    alone, is copied whole; 1.2 times it. Ten slices here are less than the largest weight, a ninth of the file.
    """
    slice_bytes = 4 * MIB
    shapes = expected_shapes(1024, 16384, 64, 2 if own == "fp32" else 4)
    weights = {name: torch.ones(shape, dtype=DTYPES[own]) for name, shape in shapes.items()}
    largest = max(weight.nbytes for weight in weights.values())
    total = sum(weight.nbytes for weight in weights.values())
    assert largest >= 32 * MIB and total > 320 * MIB
    bound = 10 * slice_bytes + (1.2 * largest if strided else 0)
    if strided:
        weights["blocks.0.ffn.0.weight"] = weights["blocks.0.ffn.0.weight"].mT.contiguous().mT
    source, target = tmp_path / f"large.{ending}", tmp_path / "converted.safetensors"
    (torch.save if ending == "bin" else save_file)(weights, source)
    del weights

    command = [sys.executable, "-c", CONVERT, str(source), str(target), dtype, str(slice_bytes)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        peak = baseline = anonymous_memory(process)
        process.stdin.write("\n")
        process.stdin.flush()
        while process.poll() is None:
            peak = max(peak, anonymous_memory(process))
            time.sleep(0.0005)  # between two readings
    assert process.returncode == 0 and read_header(target).shapes == shapes
    source.unlink(), target.unlink()
    assert peak - baseline < bound, f"{(peak - baseline) / MIB:.0f} MiB more than before"


# The command line.


def test_the_command_line_explains_itself(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    text = capsys.readouterr().out
    assert caught.value.code == 0
    assert all(word in text for word in ("source", "destination", "--overwrite", "--dtype {keep,bf16,fp16,fp32,fp8}"))


def test_the_command_line_converts_beside_the_source(source, capsys):
    assert main([str(source), "--dtype", "bf16"]) == 0
    target = source.with_suffix(".safetensors")
    assert_holds(target, {name: weight.bfloat16() for name, weight in SMALL.items()})
    assert capsys.readouterr().out == f"{target}: {len(SMALL)} tensors, 0.00 GB; 0 unused ones left out\n"


def test_the_command_line_passes_notes_on(tmp_path, target, capsys):
    torch.save(VARIANTS["ema"], tmp_path / "ema.bin")
    assert main([str(tmp_path / "ema.bin"), str(target)]) == 0
    note, summary = capsys.readouterr().out.splitlines()
    assert "EMA" in note and summary.endswith("; 12 unused ones left out")


@pytest.mark.slow
def test_the_command_line_as_a_command(source, target):
    command = [sys.executable, "-m", "liveditor_isa", "convert", source, target]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and str(target) in done.stdout
    assert load_file(target).keys() == SMALL.keys()
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 2 and "exists already" in again.stderr.splitlines()[-1] and "Traceback" not in again.stderr


@pytest.mark.parametrize(
    "name, told",
    [
        ("none.bin", "No such file"),
        ("page.bin", "no torch checkpoint"),
        (".", "no safetensors file"),
        ("..", "no safetensors file"),
        ("", "no safetensors file"),
    ],
)
def test_the_command_line_says_what_is_wrong_in_one_line(tmp_path, monkeypatch, capsys, name, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page.bin").write_bytes(b"<html>404</html>")
    assert main([name]) == 2
    shown = capsys.readouterr()
    sentence = shown.err.splitlines()[-1]
    assert sentence.startswith("liveditor convert: ") and told in sentence and shown.out == ""
    assert files_in(tmp_path) == ["page.bin"]


def test_a_destination_folder_that_is_missing_is_named(source, tmp_path, capsys):
    assert main([str(source), str(tmp_path / "missing/out.safetensors")]) == 2
    assert str(tmp_path / "missing") in capsys.readouterr().err.splitlines()[-1]
