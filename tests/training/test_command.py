"""`python -m liveditor_isa.training`: what it refuses, and how it is stopped, in one process and several."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from comfy_headless import COMFYUI

TRAINING = ("-m", "liveditor_isa.training")
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *TRAINING)


def start(*command: str, path: str = "") -> subprocess.Popen:
    paths = os.pathsep.join(filter(None, [path, os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen([sys.executable, *command], env=environment, stderr=subprocess.PIPE, encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    "options, comfyui, told",
    [
        (["--small"], False, "ComfyUI cannot be imported (No module named 'comfy'): put its folder on the Python path"),
        ([], True, "There is no GPU, and on a CPU the training takes days: add --small for one of some minutes"),
        (["--device", "cuda"], True, "There is no GPU for --device cuda: leave it out"),
        (["--device", "tpu"], True, "--device is cuda or cpu; got 'tpu'"),
    ],
)
def test_what_cannot_train_is_told_in_one_line(options, comfyui, told, tmp_path):
    training = start(*TRAINING, "--out", str(tmp_path / "run"), *options, path=str(COMFYUI) if comfyui else "")
    said = training.communicate()[1]
    assert training.returncode == 2 and said.count("\n") == 1 and told in said
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_help_needs_neither_a_gpu_nor_comfyui():
    done = subprocess.run([sys.executable, *TRAINING, "--help"], capture_output=True, encoding="utf-8")
    assert done.returncode == 0 and "--device" in done.stdout, done.stderr


def stopped(by: signal.Signals, folder, *command: str) -> tuple[int, str]:
    """Exit status and last words of a small run that is stopped within its first part."""
    training = start(*command, "--out", str(folder), "--small", path=str(COMFYUI))
    while training.poll() is None and not (folder / "vae_log.jsonl").exists():
        time.sleep(0.1)
    training.send_signal(by)
    return training.wait(100), training.stderr.read()


@pytest.mark.long
@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_stops(by, tmp_path):
    status, said = stopped(by, tmp_path, *TRAINING)
    assert status == 128 + by and "Traceback" not in said
    assert said.splitlines()[-1] == "liveditor training: stopped; the same command goes on from what is saved."
    assert logged(tmp_path)[-1] == torch.load(tmp_path / "vae_checkpoint.pt")["done"] < 30


def logged(folder) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "vae_log.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.long
def test_several_processes_stop_at_the_same_step(tmp_path):
    status, said = stopped(signal.SIGTERM, tmp_path, *TWO)
    assert status and said.count("liveditor training: stopped") == 1
    assert logged(tmp_path)[-1] == torch.load(tmp_path / "vae_checkpoint.pt")["done"] < 30


@pytest.mark.long
def test_the_small_training_runs_from_start_to_end(tmp_path):
    training = start(*TRAINING, "--out", str(tmp_path), "--small", path=str(COMFYUI))
    assert training.communicate()[1] and training.returncode == 0
    assert json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))["steps"] == 60


@pytest.mark.long
def test_minutes_hold(tmp_path):
    training = start(*TRAINING, "--out", str(tmp_path), "--small", "--minutes", "0", path=str(COMFYUI))
    training.communicate()
    assert training.returncode == 0 and logged(tmp_path) == [1] and not (tmp_path / "wan_tiny_vae.safetensors").exists()
