"""Hostile input: whatever is asked, set, saved or opened, the answer is a sentence, nothing changes, nothing runs or runs away.

FUZZ_EXAMPLES=5000 tries longer than the few seconds of an ordinary run.
"""

import copy
import io
import json
import os
import pickle
import resource
import struct
import zipfile
from fractions import Fraction
from pathlib import Path

import av
import folder_paths
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from liveditor_isa.checkpoint import pickles
from liveditor_isa.checkpoint.keys import CheckpointError, check_keys, expected_shapes
from liveditor_isa.checkpoint.opening import LARGEST_HEADER, LONGEST_NAME, open_checkpoint
from liveditor_isa.comfyui.loaders import load_text_encoder, load_vae, read_diffusion_model
from liveditor_isa.isa_core import ISAConfig, TokenLayout
from liveditor_isa.nodes import output_name, routes
from liveditor_isa.nodes.live import DETAIL, RUNS, Run, RunMaps, with_live_changes
from liveditor_isa.runtime.live import LiveSettings, Settings, read_changes
from liveditor_isa.runtime.schedule import Schedule
from liveditor_isa.video.mp4 import write_mp4
from make_tiny_model import ENCODER, ENCODER_CONFIG, VAE, random_like
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", 60))
fuzz = settings(deadline=None, max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))

numbers = st.integers(-3, 70) | st.sampled_from([2**31, 2**63, 10**30, -(10**30)]) | st.floats(width=32)
words = st.text(max_size=6) | st.sampled_from(["keep_ratio", "enabled", "dense_query_ratio", "block_size", "3", "12:7", "drop"])
anything = st.recursive(
    st.none() | st.booleans() | numbers | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=10,
)
VALUES = [
    "enabled",
    "keep_ratio",
    "dense_query_ratio",
    "sharpness_threshold",
    "error_threshold",
    "exact_ratio",
    "sharpness",
    "context_tail",
]
fields = st.dictionaries(
    st.sampled_from([*VALUES, "block_size", "tail_order"]), anything | st.sampled_from([True, 0.5, 1, "drop"])
)


# What the page, or somebody in its place, asks


@pytest.fixture
def known_run(monkeypatch):
    """A sampling run that is going on, and the settings that it has."""
    live = LiveSettings(Settings(ISAConfig()))
    live.begin("one", "5")
    monkeypatch.setitem(RUNS, ("one", "3"), Run(live, "workflow", "client", RunMaps([])))
    return live


BODY_FIELDS = ["execution", "node", "values", "tokens", "client", "maps", "workflow", "at", "block"]


@pytest.mark.slow
@pytest.mark.parametrize("name", routes.REQUESTS)
def test_any_request_gets_an_answer_or_a_refusal(known_run, monkeypatch, name):
    monkeypatch.setattr(routes, "SHORTEST_PAUSE", 0)
    good = {"execution": "one", "node": "3", "client": "client", "workflow": "workflow"}

    @fuzz
    @given(st.dictionaries(st.sampled_from(BODY_FIELDS), anything | fields | st.lists(st.integers(1, 9**9))), st.booleans())
    def ask(body, at_the_run):
        body = {**body, **good} if at_the_run else body
        runs = dict(RUNS)
        try:
            # As it would arrive.
            answer = routes.REQUESTS[name](json.loads(json.dumps(body)))
            assert len(json.dumps(answer)) < 10_000
        except (routes.Refused, ValueError) as refusal:
            assert str(refusal)
        assert RUNS == runs and len(DETAIL) <= routes.MOST_PAGES
        assert 0 <= known_run.next().config.keep_ratio <= 1

    ask()


# What is set on a node, or saved in a workflow


@fuzz
@given(st.dictionaries(st.sampled_from(list(ISAConfig.__dataclass_fields__)), anything))
def test_a_config_is_valid_or_refused(values):
    try:
        config = ISAConfig(**values)
    except ValueError as error:
        assert str(error)
        return
    assert all(0 <= ratio <= 1 for ratio in (config.keep_ratio, config.dense_query_ratio, config.exact_ratio))
    assert type(config.block_size) is int and config.block_size > 0


@fuzz
@given(anything, st.lists(anything, max_size=4))
def test_a_layout_is_valid_or_refused(target, context):
    try:
        layout = TokenLayout(target, context)
    except ValueError as error:
        assert "a token group must hold a whole number of tokens" in str(error)
        return
    assert layout.total >= len(layout.segments) >= 1


@fuzz
@given(st.text("0123456789-, x\u0663_", max_size=12) | st.text(max_size=12), st.integers(1, 50))
@example("0-999999999999", 40)
@example("38-99", 40)
@example("-99--1", 40)
@example("9" * 5000, 40)
def test_dense_blocks_are_ranges_or_refused(text, total):
    try:
        schedule = Schedule(dense_blocks=text)
    except ValueError as error:
        assert "dense_blocks is a list of block numbers" in str(error)
        return
    found = [schedule.is_dense_block(index, total) for index in range(total)]
    expected = [False] * total
    for part in filter(None, (part.strip() for part in text.split(","))):
        ends = part[1:].split("-", 1)
        first, last = int(part[0] + ends[0]), int(ends[1] if len(ends) > 1 else part[0] + ends[0])
        first, last = (end + total if end < 0 else end for end in (first, last))
        expected = [was or first <= index <= last for index, was in enumerate(expected)]
    assert found == expected


@pytest.mark.parametrize("percents", [(float("nan"), 1), (0, float("nan")), (0, float("inf")), (-1, 1), (0.5, 0.5)])
def test_a_schedule_that_is_no_part_of_a_run_is_refused(percents):
    with pytest.raises(ValueError, match="start_percent must lie below end_percent"):
        Schedule(*percents)


changes = st.lists(st.tuples(st.integers(-1, 5) | anything, fields | anything | st.lists(st.tuples(words | numbers, anything))))


@fuzz
@given(st.text(max_size=30) | anything.map(json.dumps) | st.dictionaries(words, changes | anything, max_size=3).map(json.dumps))
@example('{"5": [[0, [[1, 2], ["a", 3]]]]}')
@example("[" * 100_000)
def test_a_record_is_read_or_refused(text):
    try:
        record = read_changes(text)
        LiveSettings(Settings(ISAConfig()), record)
    except ValueError as error:
        assert str(error)
        return
    assert all(isinstance(values, dict) for changes in record.values() for _, values in changes)


nodes = st.lists(
    anything
    | st.fixed_dictionaries(
        {}, optional={"id": st.sampled_from([3, "3", 12]) | anything, "type": words, "widgets_values": anything}
    )
)
graphs = anything | st.fixed_dictionaries(
    {}, optional={"nodes": nodes | anything, "definitions": anything | st.fixed_dictionaries({"subgraphs": nodes | anything})}
)
prompts = anything | st.dictionaries(words, anything | st.fixed_dictionaries({"inputs": anything}))


@fuzz
@given(
    st.fixed_dictionaries({}, optional={"workflow": graphs, "prompt": prompts, "other": anything}),
    st.sampled_from(["3", "12:7"]),
)
def test_metadata_of_any_kind_does_not_stop_a_video(tags, node):
    RUNS["hostile", node] = Run(None, None, None, RunMaps([]), changes="[[0, {}]]")
    try:
        before = copy.deepcopy(tags)
        made = with_live_changes(tags, "hostile")
        assert repr(tags) == repr(before) and made.keys() == tags.keys()
    finally:
        del RUNS["hostile", node]


# The video's name and tags


@pytest.fixture
def output(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "deeper" / "output"
    folder.mkdir(parents=True)
    monkeypatch.setattr(folder_paths, "output_directory", str(folder))
    return folder


def test_any_prefix_names_a_file_in_the_output_folder_or_is_refused(output, tmp_path):
    parts = st.sampled_from(["..", ".", "", "a", "漢" * 84, "x" * 300, "CON", "%width%", "~", "a\0b", "a\nb", "-y", "\ud800"])

    @fuzz
    @given(st.text(max_size=8) | st.lists(parts | st.text(max_size=3), max_size=4).map("/".join))
    @example("../outside")
    @example("/etc/passwd")
    @example("a/../../b")
    @example("a\0b")
    @example("x" * 300)
    @example("x" * 100_000)
    def name(prefix):
        try:
            path, subfolder = output_name.output_path(prefix, 16, 16)
        except (ValueError, OSError) as error:
            assert "filename_prefix" in str(error) and "\n" not in str(error) and len(str(error)) < 400
            return
        assert Path(path).resolve().is_relative_to(output)
        assert Path(path) == output / subfolder / Path(path).name
        Path(path).touch()

    name()
    assert [entry.name for entry in tmp_path.iterdir()] == ["deeper"]
    assert [entry.name for entry in output.parent.iterdir()] == ["output"]


@pytest.mark.parametrize("prefix", ["a:b", "c/x?", 'say "x"', "a|b"])
def test_what_windows_takes_for_no_name_is_refused_there(output, monkeypatch, prefix):
    assert output_name.output_path(prefix, 16, 16)
    monkeypatch.setattr(output_name, "FORBIDDEN", ':*?"<>|')
    with pytest.raises(ValueError, match="no file name may have: choose another"):
        output_name.output_path(prefix, 16, 16)


@pytest.mark.parametrize("name", ["[STREAM]", "[CHAPTER]\nTIMEBASE=1/1", "a\0b", "\ud800", "a\r\nb", "=;#\\", ""])
def test_a_tag_of_any_name_leaves_the_others_as_they_are(tmp_path, name):
    tags = {name: '"first"', "prompt": '{"a": 1}', "workflow": '{"b": 2}'}
    path = write_mp4(tmp_path / "v.mp4", [torch.zeros(1, 16, 16, 3)], Fraction(25), metadata=tags)
    with av.open(str(path)) as container:
        assert (container.metadata["prompt"], container.metadata["workflow"]) == ('{"a": 1}', '{"b": 2}')


# Checkpoints

SMALL = random_like(expected_shapes(16, 32, 8, 1), seed=0)


def saved(content, legacy: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def opened(path: Path):
    """The checkpoint, or None if it was refused in one sentence."""
    try:
        checkpoint = open_checkpoint(path)
    except CheckpointError as error:
        assert path.name in str(error) and "\n" not in str(error) and len(str(error)) < 600
        return None
    for name, weight in checkpoint.tensors().items():
        assert checkpoint.shapes[name] == tuple(weight.shape)
        weight.contiguous().view(-1).view(torch.uint8).sum()  # all of it can be read
    return checkpoint


edits = st.lists(
    st.tuples(
        st.sampled_from(["set", "insert", "delete", "repeat", "move"]), st.floats(0, 1), st.floats(0, 1), st.binary(max_size=8)
    ),
    min_size=1,
    max_size=3,
)


@pytest.mark.parametrize("format", ["zip.bin", "legacy.bin", "whole.safetensors"])
def test_a_damaged_file_is_refused_or_sound(tmp_path, format):
    path = tmp_path / format
    content = {"a.weight": torch.ones(3, 4), "b": torch.arange(5).half(), "epoch": 3}
    if format.endswith("bin"):
        data = saved(content, format.startswith("legacy"))
    else:
        save_file({"a.weight": torch.ones(3, 4), "b": torch.arange(5).half()}, path, {"format": "pt"})
        data = path.read_bytes()

    @settings(fuzz, max_examples=3 * EXAMPLES)
    @given(edits)
    def damage(edits):
        changed = bytearray(data)
        for kind, first, second, content in edits:
            begin, end = sorted(int(place * len(changed)) for place in (first, second))
            if kind == "set":
                changed[begin : begin + len(content)] = content
            elif kind == "insert":
                changed[begin:begin] = content
            elif kind == "delete":
                del changed[begin : min(end, begin + 50)]
            elif kind == "repeat":
                changed[begin:begin] = changed[begin:end]
            else:
                changed[begin : begin + 16] = changed[end : end + 16]
        path.write_bytes(changed)
        opened(path)

    damage()


def archive(path: Path, structure: bytes, compression=zipfile.ZIP_STORED, **others: bytes) -> Path:
    """A torch archive of two numbers, whose pickle is `structure`."""
    with zipfile.ZipFile(io.BytesIO(saved({"a": torch.ones(2)}))) as whole, zipfile.ZipFile(path, "w", compression) as out:
        for entry in whole.infolist():
            name = entry.filename.rpartition("/")[2]
            out.writestr(entry.filename, structure if name == "data.pkl" else others.get(name) or whole.read(entry))
    return path


OPCODES = [
    b"}",
    b"]",
    b")",
    b"(",
    b"t",
    b"\x85",
    b"\x86",
    b"\x87",
    b"s",
    b"u",
    b"a",
    b"e",
    b"N",
    b"K\x01",
    b"q\x00",
    b"h\x00",
    b"R",
]
OPCODES += [b"\x81", b"b", b"Q", b"X\x01\x00\x00\x00a", b"ctorch\nSize\n", b"ccollections\nOrderedDict\n", b"cbuiltins\nset\n"]
OPCODES += [
    b"\x8a\x05\xff\xff\xff\xff\x7f",
    b"G" + struct.pack(">d", 1),
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch\nFloatStorage\n",
]
OPCODES += [
    b"0",
    b"2",
    b"\x94",
    b"ctorch\nTensor\n",
    b"ctorch.nn.parameter\nParameter\n",
    b"cos\nsystem\n",
    b"c__builtin__\nbytearray\n",
]


def test_any_pickle_is_refused_or_sound(tmp_path):
    @settings(fuzz, max_examples=3 * EXAMPLES)
    @given(st.lists(st.sampled_from(OPCODES), max_size=25))
    def load(opcodes):
        opened(archive(tmp_path / "random.bin", b"\x80\x02" + b"".join(opcodes) + b"."))

    load()


tuples = st.recursive(st.integers() | st.text(max_size=3), lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=8)


def test_what_python_itself_pickles_is_opened_whatever_its_protocol(tmp_path):
    """The look before torch's must not take a sound file for a hostile one."""

    @fuzz
    @given(st.dictionaries(tuples, tuples | st.lists(tuples, max_size=3) | st.none(), max_size=4))
    def load(content):
        content["a"] = torch.ones(2)
        for legacy in (False, True):
            path = tmp_path / f"{legacy}.bin"
            path.write_bytes(saved(content, legacy))
            assert opened(path).shapes == {"a": (2,)}

    load()


HOSTILE = {
    "a deep key, whose hash overflows the stack": b"})" + b"\x85" * 300_000 + b"K\x01s.",
    "a key of many references, whose hash never ends": b"})" + b"q\x00h\x00\x86" * 60 + b"K\x01s.",
    "three billion zeros": b"}X\x01\x00\x00\x00ac__builtin__\nbytearray\n\x8a\x05" + (3 * 10**9).to_bytes(5, "little") + b"\x85Rs.",
    "text that doubles": b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00hex\x86R.",
    "a tensor of a hundred billion numbers": b"}X\x01\x00\x00\x00actorch\nTensor\n\x8a\x05" + (10**11).to_bytes(5, "little") + b"\x85Rs.",
    "a storage of a hundred billion bytes": b"}X\x01\x00\x00\x00actorch.storage\nUntypedStorage\n\x8a\x05" + (10**11).to_bytes(5, "little") + b"\x85Rs.",
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_pickle_that_fills_memory_or_never_ends_is_refused(tmp_path, kind):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert opened(archive(tmp_path / "hostile.bin", b"\x80\x02" + HOSTILE[kind])) is None
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_an_archive_that_unpacks_to_more_than_itself_is_refused(tmp_path):
    bomb = archive(tmp_path / "bomb.bin", b"\x80\x02}" + b"N0" * 10**7 + b".", zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 100_000
    with pytest.raises(CheckpointError, match="bomb.bin is compressed, unlike what torch writes, and was not opened"):
        open_checkpoint(bomb)
    # Once more, with every entry over the same bytes.
    data = bytearray(archive(tmp_path / "overlapping.bin", b"\x80\x02}.", **{"0": bytes(10**6)}).read_bytes())
    directory = data.index(b"PK\x01\x02")
    entries = data[directory:].split(b"PK\x01\x02")[1:]
    weight = next(entry for entry in entries if b"data/0" in entry)
    count, extra = len(entries) + 9, (b"PK\x01\x02" + weight.split(b"PK\x05\x06")[0]) * 9
    data[directory:directory] = extra
    end = data.rindex(b"PK\x05\x06")
    size = struct.unpack_from("<I", data, end + 12)[0] + len(extra)
    struct.pack_into("<HHI", data, end + 8, count, count, size)
    (tmp_path / "overlapping.bin").write_bytes(data)
    with pytest.raises(CheckpointError, match="claims to hold more than its own size"):
        open_checkpoint(tmp_path / "overlapping.bin")


def test_structure_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pickles, "LARGEST_STRUCTURE", 10_000)
    with pytest.raises(CheckpointError, match="lists far more than weights"):
        open_checkpoint(archive(tmp_path / "long.bin", b"\x80\x02}" + b"N0" * 5_000 + b"."))
    (tmp_path / "legacy.bin").write_bytes(saved({"a": torch.ones(2), **dict.fromkeys(range(9_000))}, True))
    assert opened(tmp_path / "legacy.bin") is None


STRANGE = {
    "absent": lambda: torch.ones(2, device="meta"),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "quantised": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "stretched": lambda: torch.ones(1).expand(10**9),
    "overlapping": lambda: torch.ones(1999).as_strided((1000, 1000), (1, 1)),
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", STRANGE)
def test_a_tensor_that_is_no_weight_counts_as_none(tmp_path, kind, legacy):
    path = tmp_path / "strange.bin"
    path.write_bytes(saved({**SMALL, "head.modulation": STRANGE[kind]()}, legacy))
    checkpoint = opened(path)
    if checkpoint is None:
        assert (kind, legacy) == ("nested", True), "torch itself cannot read these"
        return
    assert "head.modulation" not in checkpoint.shapes
    with pytest.raises(CheckpointError, match="lacks head.modulation"):
        check_keys(checkpoint.shapes)


def test_one_weight_under_a_thousand_names_is_refused_and_under_two_it_is_not(tmp_path):
    weight = torch.ones(1000)
    for count, sound in ((2, True), (1000, False)):
        (tmp_path / "tied.bin").write_bytes(saved({f"w{index}": weight for index in range(count)}))
        assert bool(opened(tmp_path / "tied.bin")) is sound


def header(path: Path, text: bytes, body: bytes = bytes(64), length: int | None = None) -> Path:
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + body)
    return path


ENTRY = '{"dtype":"F32","shape":[16],"data_offsets":[0,64]}'
HEADERS = {
    "two weights of one name": f'{{"a":{ENTRY},"a":{ENTRY.replace("0,64", "64,128")}}}',
    "two weights in one place": f'{{"a":{ENTRY},"b":{ENTRY}}}',
    "two types": f'{{"a":{ENTRY.replace("{", "{" + chr(34) + "dtype" + chr(34) + ":" + chr(34) + "F64" + chr(34) + ",")}}}',
    "a long type": f'{{"a":{ENTRY.replace("F32", "x" * 10**6)}}}',
    "a long name": f'{{"{"module." * 10**5}a":{ENTRY}}}',
    "a name with an escape": f'{{"a\\u001b[2J\\nb":{ENTRY}}}',
    "depth": '{"a":' + "[" * 10**6,
    "more than fits": '{"a":[' + "[]," * (LARGEST_HEADER // 3) + "[]]}",
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_hostile_header_is_refused(tmp_path, kind):
    assert opened(header(tmp_path / "hostile.safetensors", HEADERS[kind].encode())) is None


def test_a_name_may_be_as_long_as_any_model_needs(tmp_path):
    for length, sound in ((LONGEST_NAME, True), (LONGEST_NAME + 1, False)):
        assert bool(opened(header(tmp_path / "name.safetensors", f'{{"{"a" * length}":{ENTRY}}}'.encode()))) is sound


@pytest.mark.parametrize("config", ["[", "[]", '{"transformer": 5}', '{"transformer": {"num_layers": 100000, "text_dim": 8}}'])
def test_a_files_own_config_does_not_tell_core_what_to_build(tmp_path, config):
    save_file(SMALL, tmp_path / "model.safetensors", {"config": config})
    _, metadata = read_diffusion_model(str(tmp_path / "model.safetensors"))
    assert json.loads(metadata["config"]) == {"transformer": {"text_dim": 8}}


CONFIGS = ["[", "[]", "5", '{"text_encoder": 5}', '{"text_encoder": {"num_layers": 2}}', '{"text_encoder": ' + "[" * 10**5]
CONFIGS += [
    json.dumps({"text_encoder": {**ENCODER_CONFIG, **change}})
    for change in (
        {"num_layers": 10**6}, {"d_model": 32}, {"d_model": 10**12}, {"d_model": "x"}, {"vocab_size": 10**15},
        {"min_length": 10**9}, {"min_length": "x"}, {"words": 5}, {"words": [[]]}, {"num_heads": 0}, {"dense_act_fn": "exec"},
    )
]  # fmt: skip


@pytest.mark.parametrize("config", CONFIGS)
def test_a_text_encoder_of_another_config_is_refused_before_it_is_built(models, tmp_path, config):
    save_file(load_file(models / ENCODER), tmp_path / "encoder.safetensors", {"config": config})
    with pytest.raises(CheckpointError, match=r"^encoder.safetensors does not fit \(.*\): it is damaged or another model"):
        load_text_encoder(str(tmp_path / "encoder.safetensors"))


@pytest.mark.parametrize("change", ["no vocabulary", "nonsense as vocabulary", "a layer missing", "a weight missing"])
def test_a_text_encoder_with_something_missing_is_refused(models, tmp_path, change):
    weights = load_file(models / ENCODER)
    if change == "nonsense as vocabulary":
        weights["spiece_model"] = torch.ones(100, dtype=torch.uint8)
    missing = {
        "no vocabulary": "spiece",
        "a layer missing": "block.1.",
        "a weight missing": "block.1.layer.1.DenseReluDense.wo",
    }
    weights = {name: weight for name, weight in weights.items() if missing.get(change, "-") not in name}
    save_file(weights, tmp_path / "encoder.safetensors", {"config": json.dumps({"text_encoder": ENCODER_CONFIG})})
    with pytest.raises(CheckpointError, match="^encoder.safetensors does not fit"):
        load_text_encoder(str(tmp_path / "encoder.safetensors"))


class Command:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("load", [load_vae, load_text_encoder])
def test_a_damaged_or_hostile_vae_or_text_encoder_is_refused(models, tmp_path, load):
    for name, content, told in (
        ("cut.safetensors", (models / VAE).read_bytes()[:-100], "truncated"),
        ("page.safetensors", b"<html>", "is not a safetensors file"),
        ("page.bin", b"<html>", "no torch checkpoint"),
        ("list.pt", saved([torch.ones(1)]), "holds a list"),
        ("code.pt", saved({"a": Command(tmp_path / "marker")}), "holds code besides weights and was not opened"),
        ("code.pth", pickle.dumps(Command(tmp_path / "marker")), "no torch checkpoint"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=f"^{name} .*{told}"):
            load(str(tmp_path / name))
    assert not (tmp_path / "marker").exists()


def test_a_vae_with_a_weight_of_another_shape_is_refused(models, tmp_path):
    weights = load_file(models / VAE)
    name = next(name for name in weights if "decoder" in name and name.endswith("gamma") and "head" not in name)
    save_file({**weights, name: torch.ones(7)}, tmp_path / "vae.safetensors")
    with pytest.raises(CheckpointError, match=r"^vae.safetensors does not fit \(.*size mismatch"):
        load_vae(str(tmp_path / "vae.safetensors"))
