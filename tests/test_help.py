"""Every program of the repository answers `--help` with its options, and does nothing else."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from comfy_headless import COMFYUI, ROOT

pytestmark = pytest.mark.slow

FOLDERS = ("scripts", "benchmarks", "training")
"""`liveditor` and its commands are asked in tests/command."""

FILES = [
    path.relative_to(ROOT)
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*.py"))
    if re.search(r"^if __name__ == .__main__.:", path.read_text(encoding="utf-8"), re.M)
]
NEED_COMFYUI = ("benchmarks/clips/", "benchmarks/steps/")


def program(file: Path) -> str:
    """As Python takes it: a script by its path, another by its module's name."""
    if file.parts[0] == "scripts":
        return str(ROOT / file)
    return ".".join(["liveditor_isa", *file.with_suffix("").parts]).removesuffix(".__main__")


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> tuple[dict[str, tuple[int, str]], Path]:
    """By program, and the folder in which all were asked. Without a GPU: help needs none."""
    folder = tmp_path_factory.mktemp("asked")
    paths = os.pathsep.join([str(ROOT / "scripts"), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/support/asking_for_help.py"), *map(program, FILES)],
        cwd=folder, env=os.environ | {"PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), folder


@pytest.mark.parametrize("file", FILES, ids=str)
def test_help_is_shown(file, answers):
    if str(file).startswith(NEED_COMFYUI) and not (COMFYUI / "main.py").exists():
        pytest.skip("needs ComfyUI")
    status, shown = answers[0][program(file)]
    assert status == 0 and shown.startswith("usage: ") and "--help" in shown, shown
    assert "Traceback" not in shown and not [*answers[1].iterdir()]
