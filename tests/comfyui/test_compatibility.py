"""Other Pythons, other systems' file names, and packages that are missing or broken."""

import ast
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from textwrap import dedent

import matrix
import pytest
import torch
from comfy_headless import ROOT, ComfyServer, PromptRefused
from liveditor_isa import kernels
from liveditor_isa.isa_core import BackendUnavailable, resolve_backend
from liveditor_isa.optional import needed
from workflow_api import Workflow

SHIPPED = (
    "batch",
    "checkpoint",
    "comfyui",
    "command",
    "data",
    "isa_core",
    "kernels",
    "nodes",
    "pipelines",
    "runtime",
    "training",
    "video",
)


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if listed.returncode:
        pytest.skip("this folder is no git checkout, so what belongs to it is not known")
    return [name for name in listed.stdout.decode().split("\0") if (ROOT / name).is_file()]


def sources() -> list[Path]:
    return sorted({*ROOT.glob("*.py"), *(path for folder in SHIPPED for path in (ROOT / folder).rglob("*.py"))})


# Pythons

BARE = """
import sys, warnings
warnings.simplefilter("error")
for path in sys.argv[1:]:
    with open(path, encoding="utf-8") as file:
        compile(file.read(), path, "exec", dont_inherit=True)
import liveditor_isa
"""


@pytest.fixture(scope="module")
def as_package(tmp_path_factory) -> dict:
    """Environment in which this folder, as it is, is importable under its name."""
    folder = tmp_path_factory.mktemp("packages")
    (folder / "liveditor_isa").symlink_to(ROOT, target_is_directory=True)
    return os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_sources_are_written_in_the_oldest_pythons_language():
    for name in tracked():
        if name.endswith(".py"):
            ast.parse((ROOT / name).read_text(encoding="utf-8"), name, feature_version=(3, 10))


@pytest.mark.slow
@pytest.mark.parametrize("version", matrix.NUMPY)
def test_each_python_compiles_and_imports_the_pack_without_a_warning(version, as_package):
    """Nothing is installed there, as in a ComfyUI whose requirements are not complete."""
    python = matrix.find_python(version)
    if not python:
        pytest.skip(f"Python {version} is not on this machine")
    done = subprocess.run([python, "-c", BARE, *map(str, sources())], env=as_package, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Systems

DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in "123456789¹²³")}
"""Names that Windows keeps for devices, with any ending."""


def why_not_on_windows(name: str) -> str | None:
    """Why Windows would refuse this name of a file or folder, or None."""
    if found := set(name) & {*'<>:"/\\|?*', *map(chr, range(32))}:
        return f"it holds {found}"
    if name.split(".")[0].rstrip(" ").lower() in DEVICES:
        return "it is a device"
    return "it ends in a dot or a space" if name[-1:] in (".", " ") else None


def test_every_tracked_path_can_be_checked_out_on_windows_and_macos():
    paths = tracked()
    refused = {path: reason for path in paths for part in path.split("/") if (reason := why_not_on_windows(part))}
    assert not refused
    # 260 characters in all, unless a setting lifts that.
    assert not [path for path in paths if len(path) > 200]
    folders = {str(parent) for path in paths for parent in Path(path).parents}
    equal = [name for name, count in Counter(name.casefold() for name in {*paths, *folders}).items() if count > 1]
    assert not equal, "a file system that takes upper and lower case for one has room for just one of these"


def test_names_that_windows_refuses_are_known():
    for name in ("a:b", "what?", "CON", "nul.txt", "com1.tar.gz", "dot.", "space ", "tab\t"):
        assert why_not_on_windows(name), name
    for name in (
        "LIVEditor_00001_.mp4",
        ".liveditor.safetensors.partial",
        "Edit video (LIVEditor + ISA).json",
        "console",
        "com10",
    ):
        assert not why_not_on_windows(name), name


def test_files_are_written_under_names_that_windows_takes(tmp_path, monkeypatch, models):
    from fractions import Fraction

    from liveditor_isa.checkpoint.convert import convert_checkpoint
    from liveditor_isa.video.mp4 import write_mp4

    names = []
    for name in ("replace", "link"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *paths, real=real: (names.extend(Path(path).name for path in paths), real(*paths)))
    write_mp4(tmp_path / "LIVEditor_00001_.mp4", [torch.zeros(1, 16, 16, 3)], Fraction(25))
    convert_checkpoint(models / "diffusion_models/liveditor_tiny.bin", tmp_path / "tiny.safetensors")
    assert len(names) == 4 and not [name for name in names if why_not_on_windows(name)]


def opened_as_text(path: Path) -> list[str]:
    """Where a file is opened as text without naming its encoding, which on Windows is not UTF-8."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or "encoding" in {keyword.arg for keyword in node.keywords}:
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        written = [*node.args, *(keyword.value for keyword in node.keywords)]
        texts = {value.value for value in written if isinstance(value, ast.Constant) and isinstance(value.value, str)}
        modes = {text for text in texts if re.fullmatch("[rwxabt+]+", text)}
        builtin = isinstance(node.func, ast.Name) and name == "open"
        if name in ("read_text", "write_text", "fdopen") or (builtin and not any("b" in mode for mode in modes)):
            found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
        if any(keyword.arg in ("text", "universal_newlines") for keyword in node.keywords):
            found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    return found


def test_text_files_name_their_encoding():
    assert not [place for path in sources() for place in opened_as_text(path)]


def test_paths_are_joined_by_pathlib_or_os():
    """A slash in a path is legal on Windows; one that is cut or glued by hand meets backslashes there."""
    by_hand = re.compile(r"""split\(["']/["']|["']/["']\.join|os\.sep|\+ ["']/""")
    assert not [str(path) for path in sources() if by_hand.search(path.read_text(encoding="utf-8"))]


# Packages

BROKEN = "raise ImportError('DLL load failed while importing libtriton: a procedure was not found.')"


@pytest.fixture
def hopper(monkeypatch):
    """As if there were a GPU that the kernels run on; what is installed is not looked at before."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    for decision in (kernels._unfit_triton, kernels._cannot_start):
        decision.cache_clear()
    yield torch.device("cuda")
    for decision in (kernels._unfit_triton, kernels._cannot_start):
        decision.cache_clear()


@pytest.mark.parametrize(
    "source, reason",
    [
        (None, "Triton is not installed"),
        (BROKEN, "Triton cannot be imported (DLL load failed while importing libtriton: a procedure was not found)"),
        # What an uninstallation may leave: a folder with something in it.
        ("", "Triton cannot be imported (module 'triton' has no attribute '__version__')"),
        (
            "__version__ = '3.6.0'\nclass runtime:\n class driver:\n  class active:\n"
            "   def get_current_target(): raise RuntimeError('Failed to find C compiler.\\nSet CC.')",
            "Triton 3.6.0 cannot start (Failed to find C compiler)",
        ),
    ],
    ids=["absent", "not importable", "rests of one", "no compiler"],
)
def test_a_triton_that_cannot_run_is_the_reason_for_pytorch_and_refused_by_name(hopper, monkeypatch, tmp_path, source, reason):
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    if source is None:
        monkeypatch.setitem(sys.modules, "triton", None)
    else:
        (tmp_path / "triton").mkdir()
        (tmp_path / "triton/__init__.py").write_text(source, encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
    assert resolve_backend("auto", hopper) == ("torch", reason)
    with pytest.raises(BackendUnavailable, match=re.escape(reason)):
        resolve_backend("triton", hopper)


def test_a_text_encoder_without_sentencepiece_is_one_sentence(monkeypatch, models):
    from liveditor_isa.comfyui.loaders import load_text_encoder

    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(
        RuntimeError, match="^sentencepiece is missing: install it into ComfyUI's Python with pip install sentencepiece.$"
    ):
        load_text_encoder(str(models / "text_encoders/umt5_tiny.safetensors"))


def test_what_an_extra_brings_is_named_with_the_extra(monkeypatch):
    monkeypatch.setattr("liveditor_isa.optional._is_installed", lambda: False)
    with pytest.raises(RuntimeError, match="^rays is missing: install it into this Python with pip install rays\\.$"):
        needed("no_such_module", "rays", "batch")
    monkeypatch.setattr("liveditor_isa.optional._is_installed", lambda: True)
    with pytest.raises(
        RuntimeError, match=r'^rays is missing: install it into this Python with pip install "liveditor-isa\[batch\]"\.$'
    ):
        needed("no_such_module", "rays", "batch")
    with pytest.raises(RuntimeError, match="^rays is missing: install it into this Python with pip install rays\\.$"):
        needed("no_such_module", "rays", "")


MISSING = f"""
import importlib.abc, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in ("kornia", "imageio_ffmpeg"):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
        if name == "triton":
            {BROKEN}

sys.meta_path.insert(0, Missing())
"""


@pytest.fixture(scope="module")
def bare_server(server_models, sample_video, tmp_path_factory):
    """ComfyUI with a Triton that does not load, without kornia and imageio-ffmpeg."""
    base = tmp_path_factory.mktemp("bare")
    (base / "first").mkdir()
    (base / "first/sitecustomize.py").write_text(dedent(MISSING), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(base / "first"))
        running = ComfyServer(base, server_models)
        running.__enter__()
    running.add_input(sample_video)
    yield running
    running.__exit__()


def test_a_missing_package_takes_down_only_the_node_that_needs_it(bare_server):
    info = bare_server.get("/object_info")
    saved = json.loads((ROOT / "example_workflows/2 LIVEditor-14B.json").read_text(encoding="utf-8"))
    prompt = Workflow(saved, info).prompt(
        {
            "LIVEditorLoad": {
                "diffusion_model": "liveditor_tiny.bin",
                "text_encoder": "umt5_tiny.safetensors",
                "vae": "wan_tiny_vae.safetensors",
            },
            "LoadVideo": {"file": "bigbuckbunny.mp4"},
            "LIVEditorInContextReferences": {"size": "custom", "size.width": 160, "size.height": 96, "length": 1},
            "KSampler": {"steps": 1},
        }
    )
    node = {entry["class_type"]: name for name, entry in prompt.items()}
    missing = "imageio-ffmpeg is missing: install it into ComfyUI's Python with pip install imageio-ffmpeg."
    with pytest.raises(PromptRefused, match=missing):
        bare_server.run(prompt)

    # Without Decode Video everything else works up to the video's size.
    del prompt[node["LIVEditorDecodeVideo"]]
    prompt["saved"] = {"class_type": "SaveLatent", "inputs": {"samples": [node["KSampler"], 0], "filename_prefix": "edit"}}
    assert "kornia is missing: install it into ComfyUI's Python with pip install kornia." in bare_server.run(prompt).error

    # Without a video everything works.
    text = [node["CLIPTextEncode"], 0]
    prompt["empty"] = {
        "class_type": "EmptyHunyuanLatentVideo",
        "inputs": {"width": 160, "height": 96, "length": 1, "batch_size": 1},
    }
    prompt[node["KSampler"]]["inputs"] |= {"positive": text, "negative": text, "latent_image": ["empty", 0]}
    run = bare_server.run(prompt)
    assert run.error is None, run.error
    assert run.texts[node["LIVEditorAttachISA"]][0] == "Where ISA acts, it runs on torch (Triton needs a GPU, not 'cpu')"
    prompt[node["LIVEditorAttachISA"]]["inputs"]["backend"] = "triton"
    assert "The Triton backend cannot run" in bare_server.run(prompt).error
