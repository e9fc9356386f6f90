"""Interrupts, short memory, killed processes, full and read-only disks, replaced files, on a real server: each time the next run is right."""

import copy
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import psutil
import pytest
import torch
from comfy_headless import ComfyServer, PromptRefused
from examples import EXAMPLES, SMALL
from liveditor_isa.checkpoint.convert import convert_checkpoint
from liveditor_isa.checkpoint.keys import CheckpointError
from liveditor_isa.video.mp4 import ABANDONED_SECONDS, write_mp4
from make_tiny_model import MODEL, bin_variants, diffusion_weights
from waiting import settled, until
from workflow_api import Workflow

SUPPORT = Path(__file__).parents[1] / "support"


class FaultyServer(ComfyServer):
    """A server that can be stopped at a place, and the smallest edit to run on it."""

    def __enter__(self):
        shutil.copy(SUPPORT / "faulty_core.py", self.base / "custom_nodes")
        # Most of the time would go into making a real one small.
        frames = torch.rand(13, 50, 66, 3, generator=torch.Generator().manual_seed(0))
        audio = {"waveform": torch.zeros(1, 2, 8000), "sample_rate": 16_000}
        write_mp4(self.base / "input/small.mp4", [frames], Fraction(25), audio=audio)
        super().__enter__()
        self.process_info = psutil.Process(self.process.pid)
        saved = json.loads((EXAMPLES / "2 LIVEditor-14B.json").read_text(encoding="utf-8"))
        self.workflow = Workflow(saved, self.get("/object_info"))
        return self

    def prompt(self, **by_type) -> dict:
        small = copy.deepcopy(SMALL)
        small["LoadVideo"] = {"file": "small.mp4"}
        small["LIVEditorInContextReferences"] |= {"size.width": 64, "size.height": 48, "length": 13}
        for kind, values in by_type.items():
            small[kind] = {**small.get(kind, {}), **values}
        return self.workflow.prompt(small)

    def arm(self, where: str, what: str, after: int = 0):
        for name in ("held", "go"):
            (self.base / name).unlink(missing_ok=True)
        self.post("/faults", {"where": where, "what": what, "after": after})

    def release(self):
        (self.base / "go").touch()

    @contextmanager
    def running(self, prompt):
        """While the armed hold holds the prompt; then it goes on, to the end. Yields a list that holds the Run by then."""
        runs = []

        def run():
            try:
                runs.append(self.run(prompt))
            except Exception:  # a lost connection, for one to a server that was killed
                self.process.wait(10)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            until(lambda: (self.base / "held").exists() or not thread.is_alive())
            assert not runs, runs[0].error
            yield runs
        finally:
            self.release()
            thread.join(120)

    def videos(self, folder: str = "video") -> set[Path]:
        return {path for path in (self.base / "output" / folder).glob("*.mp4") if not path.name.startswith(".")}

    def unfinished(self) -> list[Path]:
        return [path for part in ("output", "models") for path in (self.base / part).rglob(".*") if "partial" in path.name]

    def forget(self):
        """Have models unloaded and results dropped, before the next prompt or soon."""
        self.post("/free", {"unload_models": True, "free_memory": True})

    def memory(self) -> int:
        """Bytes in use once that is done."""
        self.forget()
        return settled(lambda: self.process_info.memory_info().rss, within=2**20)


def content(path: Path) -> str:
    """Of all frames; the file itself also holds its workflow."""
    digest = hashlib.sha256()
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            digest.update(frame.to_ndarray(format="rgb24").tobytes())
    return digest.hexdigest()


def video_of(server, run) -> Path:
    assert run.error is None, run.error
    entry = next(output["images"][0] for output in run.outputs.values() if "images" in output)
    return server.base / "output" / entry["subfolder"] / entry["filename"]


@pytest.fixture(scope="module")
def small_disk() -> bool:
    done = subprocess.run(["unshare", "-rm", "sh", "-c", "mount -t tmpfs tmpfs /mnt"], capture_output=True)
    return done.returncode == 0


@pytest.fixture(scope="module")
def server(models, tmp_path_factory, small_disk):
    base = tmp_path_factory.mktemp("faulty")
    shutil.copytree(models, base / "models")
    output = base / "output"
    for name in ("full", "locked"):
        (output / name).mkdir(parents=True)
    (output / "file").touch()
    launcher = ()
    if small_disk:
        full, locked = (shlex.quote(str(output / name)) for name in ("full", "locked"))
        mounts = f"mount -t tmpfs -o size=16k tmpfs {full} && mount -t tmpfs -o ro tmpfs {locked}"
        launcher = ("unshare", "-rm", "sh", "-c", f'{mounts} && exec "$0" "$@"')
    with FaultyServer(base, base / "models", launcher=launcher) as running:
        yield running


@pytest.fixture(scope="module")
def right(server) -> str:
    """What the edit gives when nothing disturbs it."""
    return content(video_of(server, server.run(server.prompt())))


def run_again(server, right):
    """Nothing lies around, and the same edit, from files to mp4 anew, gives what it gave."""
    assert server.unfinished() == []
    server.forget()
    assert content(video_of(server, server.run(server.prompt()))) == right


# Interrupts

INTERRUPTS = {
    "progress": ("LIVEditorLoad", 1),
    "encoding": ("LIVEditorInContextReferences", 2),
    "sampling": ("KSampler", 1),
    "inside the model": ("KSampler", 5),
    "decoding": ("LIVEditorDecodeVideo", 2),
}


def interrupt(server, where: str):
    node, after = INTERRUPTS[where]
    if where == "progress":  # of the conversion
        (server.base / "models" / MODEL).with_suffix(".safetensors").unlink(missing_ok=True)
    videos, prompt = server.videos(), server.prompt()
    server.forget()
    server.arm(where, "hold", after)
    with server.running(prompt) as runs:
        server.post("/interrupt", {})
    assert runs[0].error == "interrupted" and prompt[runs[0].executed[-1]]["class_type"] == node
    assert server.videos() == videos and server.unfinished() == []


def test_an_interrupt_at_any_point_leaves_a_sound_server_and_no_memory_in_use(server, right):
    levels = [server.memory()]
    for where in INTERRUPTS:
        interrupt(server, where)
    levels.append(server.memory())
    for where in ("sampling", "decoding", "inside the model"):
        interrupt(server, where)
    levels.append(server.memory())
    print("server after /free, then after five and three more interrupts:", [level // 2**20 for level in levels], "MB")
    assert levels[1] - levels[0] < 150 * 2**20 and levels[2] - levels[1] < 50 * 2**20
    run_again(server, right)


# Memory that runs out; simulated where it would


def test_short_of_memory_the_vae_goes_on_in_tiles_and_says_so_once(server, right):
    told = [f"Not enough memory to {what} at full size; {what[:-1]}ing in tiles" for what in ("encode", "decode")]
    server.forget()
    before = len(server.log())
    server.arm("encoding", "out of memory", 1)
    server.arm("decoding", "out of memory")
    run = server.run(server.prompt())
    with av.open(str(video_of(server, run))) as container:
        assert container.streams.video[0].frames == 13
    run_again(server, right)
    assert [server.log()[before:].count(each) for each in told] == [1, 1]


def test_short_of_memory_sampling_ends_in_cores_words_and_leaves_nothing_behind(server, right):
    for where, after in (("sampling", 1), ("inside the model", 5)):
        server.forget()
        server.arm(where, "out of memory", after)
        run = server.run(server.prompt())
        assert run.error_type == "torch.OutOfMemoryError" and "simulated" in run.error
    run_again(server, right)


# Processes that are killed


def ffmpegs(process: psutil.Process) -> list[psutil.Process]:
    return [child for child in process.children(recursive=True) if "ffmpeg" in child.name()]


def test_an_ffmpeg_that_is_killed_is_said_and_leaves_nothing(server, right):
    videos = server.videos()
    server.forget()
    server.arm("decoding", "hold", 2)
    with server.running(server.prompt()) as runs:
        (ffmpeg,) = ffmpegs(server.process_info)
        ffmpeg.kill()
    assert "ffmpeg could not write" in runs[0].error and "it ended without a message." in runs[0].error
    assert server.videos() == videos and not server.unfinished()


def test_two_servers_share_a_folder_and_one_is_killed(server, right, models, tmp_path):
    """Both write the next number: neither video is lost. Killed while writing: no video by halves, and the other goes on."""
    (tmp_path / "output").symlink_to(server.base / "output", target_is_directory=True)
    with FaultyServer(tmp_path, models) as other:
        before = server.videos()
        for each in (server, other):
            each.forget()
            each.arm("decoding", "hold", 2)
        with server.running(server.prompt()) as first, other.running(other.prompt()) as second:
            assert len(server.unfinished()) == 2
        ((one,), (two,)) = [[video_of(each, run) for run in runs] for each, runs in ((server, first), (other, second))]
        assert one.name != two.name and content(one) == content(two) == right
        assert {path.name for path in server.videos() - before} == {one.name, two.name}

        both = server.videos()
        other.forget()
        other.arm("decoding", "hold", 2)
        with other.running(other.prompt()) as second:
            (ffmpeg,) = ffmpegs(other.process_info)
            other.process.kill()
            ffmpeg.wait(60)
            other.process.wait(60)
        assert second == []
    (left,) = server.unfinished()
    assert server.videos() == both
    # Its age tells a killed run's from one that another server is at; another run does not touch the latter.
    assert content(video_of(server, server.run(server.prompt(LIVEditorDecodeVideo={"crf": 17})))) and left.exists()
    os.utime(left, (time.time() - ABANDONED_SECONDS - 60,) * 2)
    assert content(video_of(server, server.run(server.prompt(LIVEditorDecodeVideo={"crf": 16})))) and not left.exists()


def test_what_is_being_written_is_never_taken_for_abandoned(tmp_path):
    def chunks():
        for _ in range(3):
            (partial,) = tmp_path.glob(".*.partial.mp4")
            assert time.time() - partial.stat().st_mtime < 60
            os.utime(partial, (0, 0))
            yield torch.zeros(1, 16, 16, 3)

    write_mp4(tmp_path / "v.mp4", chunks(), 25)


# Disks


@pytest.mark.parametrize(
    "prefix, words",
    [
        ("full/x", ["The disk is full: 0 MB are free in", "Make room and run again"]),
        ("locked/x", ["Nothing can be written to", "Make it a folder that may be written to, and run again"]),
        ("locked/deeper/x", ["filename_prefix 'locked/deeper/x' cannot be used in the output folder", "make it writable"]),
        ("file/x", ["filename_prefix 'file/x' cannot be used in the output folder", "choose another"]),
    ],
)
def test_where_nothing_can_be_written_is_said(server, right, small_disk, prefix, words):
    if not small_disk and not prefix.startswith("file"):
        pytest.skip("this machine does not permit mounting in a namespace of one's own")
    run = server.run(server.prompt(LIVEditorDecodeVideo={"filename_prefix": prefix}))
    assert run.error and "\n" not in run.error and all(word in run.error for word in words), run.error
    assert not server.unfinished()
    assert content(video_of(server, server.run(server.prompt(LIVEditorDecodeVideo={"crf": 18})))) == right


# Files that are replaced


def other_weights(path: Path):
    """Another model's, in the file that is there already."""
    weights = {name: weight.flip(0) for name, weight in diffusion_weights().items()}
    torch.save({"state_dict": weights}, path)


def test_a_model_that_was_replaced_under_its_name_is_loaded(server, right):
    model = server.base / "models" / MODEL
    original = model.read_bytes()
    made = model.with_suffix(".safetensors")
    server.run(server.prompt())
    # As copied from elsewhere: older than its conversion.
    new = model.with_name("new")
    other_weights(new)
    os.utime(new, (0, 0))
    os.replace(new, model)
    assert content(video_of(server, server.run(server.prompt()))) != right
    # In place, in the very files that are mapped.
    model.write_bytes(original)
    convert_checkpoint(model, model.with_name("again.safetensors"))
    made.write_bytes(model.with_name("again.safetensors").read_bytes())
    assert content(video_of(server, server.run(server.prompt()))) == right
    # Cut off in place.
    model.write_bytes(original[:-1000])
    run = server.run(server.prompt())
    assert run.error == "liveditor_tiny.bin is truncated or no torch checkpoint: download it again."
    model.write_bytes(original)
    run_again(server, right)


def test_a_model_that_is_replaced_while_it_is_converted_is_not_converted(tmp_path):
    source, target = tmp_path / "model.bin", tmp_path / "model.safetensors"

    def replace(done, total):
        other_weights(tmp_path / "new")
        os.replace(tmp_path / "new", source)

    torch.save(bin_variants()["bare"], source)
    with pytest.raises(
        CheckpointError, match=r"^model\.bin was replaced while it was read, and nothing was written: run again\.$"
    ):
        convert_checkpoint(source, target, progress=replace)
    assert [path.name for path in tmp_path.iterdir()] == ["model.bin"]
    convert_checkpoint(source, target)


CUT_OFF = """
import os, sys
from liveditor_isa.checkpoint.convert import convert_checkpoint
source, target = sys.argv[1:]
try:
    convert_checkpoint(source, target, progress=lambda *_: os.truncate(source, 1000))
except ValueError as error:
    print(error, os.path.exists(target))
"""


@pytest.mark.slow
def test_a_model_that_is_cut_off_while_it_is_converted_does_not_end_the_process(tmp_path):
    """A mapped file that becomes shorter is a SIGBUS for whoever reads on."""
    torch.save(bin_variants()["bare"], tmp_path / "model.bin")
    command = [sys.executable, "-c", CUT_OFF, str(tmp_path / "model.bin"), str(tmp_path / "model.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "model.bin was replaced while it was read, and nothing was written: run again. False\n", done.stderr


# Hostile workflows


@pytest.mark.parametrize("prefix", ["../../outside", "/etc/passwd", "a\0b", "a/../../b", "line\nbreak"])
def test_a_prefix_that_is_no_name_in_the_output_folder_is_refused_before_anything_runs(server, right, prefix):
    with pytest.raises(PromptRefused) as refused:
        server.run(server.prompt(LIVEditorDecodeVideo={"filename_prefix": prefix}))
    told = str(refused.value)
    assert "filename_prefix" in told and told.endswith(".") and "\n" not in told


@pytest.mark.parametrize("prefix", ["x" * 300, "漢" * 90])
def test_a_prefix_that_is_too_long_is_cut(server, right, prefix):
    run = server.run(server.prompt(LIVEditorDecodeVideo={"filename_prefix": prefix}))
    assert run.error is None and video_of(server, run).name.startswith(prefix[:60])


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a\0b", "x" * 5000, "", "liveditor_tiny.bin/.."])
def test_a_model_outside_the_models_folder_is_not_found(server, right, name):
    run = server.run(server.prompt(LIVEditorLoad={"diffusion_model": name}))
    assert "Put the LIVEditor checkpoint there" in run.error


@pytest.mark.parametrize(
    "values, told",
    [
        ({"size.width": 17}, "width and height must be multiples of 16"),
        ({"size.width": 10**9}, "bigger than max"),
        ({"size.height": -16}, "smaller than min"),
        ({"length": -1}, "smaller than min"),
        ({"length": 10**9}, "bigger than max"),
        ({"length": "many"}, "convert"),
        ({"fps": 10**9}, "bigger than max"),
        ({"size": "no such choice"}, ""),
        ({"size": 5}, ""),
    ],
)
def test_absurd_sizes_are_refused(server, right, values, told):
    prompt = server.prompt(LIVEditorInContextReferences=values)
    try:
        found = server.run(prompt).error
    except PromptRefused as refused:
        found = str(refused)
    assert found and told in found, found


@pytest.mark.parametrize("workflow", ["text", ["a"], {"nodes": [5, {"id": None}]}, {"[STREAM]\n": 1}, 5])
def test_a_workflow_of_any_kind_does_not_stop_an_edit(server, right, workflow):
    prompt = server.prompt(
        LIVEditorDecodeVideo={"fps": 0.0001, "filename_prefix": f"odd/{type(workflow).__name__}{len(str(workflow))}"}
    )
    run = server.run(prompt, workflow)
    with av.open(str(video_of(server, run))) as container:
        assert json.loads(container.metadata["workflow"]) == workflow and "prompt" in container.metadata


def test_the_server_is_sound_after_all_that(server, right):
    run_again(server, right)
    assert "Traceback" not in server.log().rpartition("got prompt")[2]
