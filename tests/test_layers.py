"""Which folder may import which (docs/architecture.md), and that the check of it fails where somebody breaks it."""

import os
import subprocess
import sys

import pytest
from layers import ROOT, copy_modules


def check(root):
    return subprocess.run(
        [sys.executable, ROOT / "scripts/layers.py", "--root", root],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )


def test_imports_keep_to_the_layers():
    result = check(ROOT)
    assert result.returncode == 0, result.stdout


PLANTED = {
    "ComfyUI in the algorithm": (
        "isa_core/pool.py",
        "import comfy.sd",
        ("Nothing but the ComfyUI host and training reaches ComfyUI BROKEN", "isa_core.pool -> comfy"),
    ),
    "ComfyUI in the algorithm, within a function": (
        "isa_core/pool.py",
        "def planted():\n    import folder_paths",
        ("Nothing but the ComfyUI host and training reaches ComfyUI BROKEN", "isa_core.pool -> folder_paths"),
    ),
    "a host in what hosts share": (
        "runtime/live.py",
        "from ..comfyui import attach",
        ("A layer imports only layers below it BROKEN", "runtime.live -> liveditor_isa.comfyui.attach"),
    ),
    "ComfyUI in the diffusers host, through our ComfyUI host": (
        "pipelines/layouts.py",
        "from ..comfyui import scene",
        (
            "Nothing but the ComfyUI host and training reaches ComfyUI BROKEN",
            "pipelines.layouts -> liveditor_isa.comfyui.scene",
        ),
    ),
    "diffusers in a node": (
        "nodes/node_text.py",
        "import diffusers",
        ("The ComfyUI host uses no part of the headless one BROKEN", "nodes.node_text -> diffusers"),
    ),
    "a host's package in the algorithm": (
        "kernels/pool.py",
        "import safetensors",
        ("The algorithm needs no host's packages BROKEN", "kernels.pool -> safetensors"),
    ),
    "the algorithm in the files of a checkpoint": (
        "checkpoint/keys.py",
        "from ..kernels import pool",
        ("Checkpoints, videos and drawn edits need no host BROKEN", "checkpoint.keys -> liveditor_isa.kernels.pool"),
    ),
    "kernels in a policy": (
        "isa_core/policies/paper.py",
        "from ...kernels import select",
        ("Policies know nothing of kernels and backends BROKEN", "policies.paper -> liveditor_isa.kernels.select"),
    ),
    "a cycle": (
        "video/geometry.py",
        "def planted():\n    from . import clip",
        ("No cycle between folders or modules BROKEN", "Import cycle: liveditor_isa.video."),
    ),
    "a late import of what is quick": (
        "data/procedural/edits.py",
        "def planted():\n    from . import scenes",
        ("Import within a function, of nothing slow or optional: data/procedural/edits.py:",),
    ),
    "a folder in no layer": (
        "somewhere/__init__.py",
        "",
        ("A layer imports only layers below it BROKEN", "liveditor_isa.somewhere"),
    ),
}


ALONE = ("ComfyUI in the algorithm", "a host in what hosts share")


@pytest.mark.slow
@pytest.mark.parametrize("planted", [*([what] for what in ALONE), [what for what in PLANTED if what not in ALONE]])
def test_a_planted_import_is_found(planted, tmp_path):
    copy_modules(ROOT, tmp_path)
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    for module, line, _ in (PLANTED[what] for what in planted):
        (tmp_path / module).parent.mkdir(exist_ok=True)
        with open(tmp_path / module, "a") as file:
            file.write(f"\n\n{line}\n")
    result = check(tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    for words in (words for what in planted for words in PLANTED[what][2]):
        assert words in result.stdout
