"""Runs the tests that need no ComfyUI under every supported Python that is installed, without Triton, with NumPy 1 and 2.

python scripts/matrix.py [3.12 ...]

Each Python gets an environment in .cache/matrix, made once, with torch as in .venv. Its CUDA libraries, gigabytes, belong to
no Python's version and are shared. What is tested is a wheel, built from this folder as it is.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from setup import ROOT, step

NUMPY = {"3.10": "numpy<2", "3.11": "numpy<2", "3.12": "numpy>=2", "3.13": "numpy>=2"}
"""By Python's version; these are the supported ones."""

ENVIRONMENTS = ROOT / ".cache/matrix"
REQUIREMENTS = ROOT / "requirements/matrix.txt"

PIP = (sys.executable, "-m", "pip")

TESTS = ("isa_core", "video/test_geometry.py", "checkpoint/test_keys.py", "checkpoint/test_opening.py")

VERSIONS = """
import sys, numpy, torch, liveditor_isa.isa_core, liveditor_isa.checkpoint.convert, liveditor_isa.video.mp4
assert "triton" not in sys.modules
print(f"numpy {numpy.__version__}, torch {torch.__version__}")
"""

NOT = "memory or plain_wan_of_core"
"""Memory is as large under every Python; the other needs ComfyUI."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="*", metavar="VERSION", help="of Python, such as 3.10; all unless given")
    versions = parser.parse_args().versions or list(NUMPY)
    pythons = {version: python for version in versions if (python := find_python(version))}
    absent = [f"Python {version}: not tested, it is not on this machine" for version in versions if version not in pythons]
    if reason := no_torch():
        print(f"matrix: nothing is tested: {reason}")
        return 0
    with ThreadPoolExecutor(2) as pool, tempfile.TemporaryDirectory() as folder:
        wheel = build_wheel(Path(folder))
        done = list(pool.map(lambda version: test(version, make(version, pythons[version]), wheel), pythons))
    print("\n".join([*(summary for _, summary in done), *absent]))
    return max((code for code, _ in done), default=0)


def find_python(version: str) -> str | None:
    """The Python of that version on the PATH or kept by pyenv, if any. pyenv's command also exists for versions that are not installed."""
    asked = "import sys; print(sys.executable)"
    pyenv = ROOT if not shutil.which("pyenv") else _output("pyenv", "prefix", version)
    for command in (f"python{version}", f"{pyenv}/bin/python"):
        if shutil.which(command) and (path := _output(command, "-c", asked)):
            return path
    return None


def _output(*command: str) -> str:
    """Its output; an empty string if it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def no_torch() -> str | None:
    """Why the environments cannot have a torch, or None when they can."""
    try:
        version("torch")
    except PackageNotFoundError:
        return "run this with .venv's Python, whose torch the environments take after"
    if not _cuda_libraries().is_dir():
        return "torch in .venv is not PyPI's build for Linux, and no other has wheels for every Python"
    return None


def _cuda_libraries() -> Path:
    return Path(sysconfig.get_path("purelib")) / "nvidia"


def environment(version: str) -> Path:
    """Its Python, which exists once `make` has completed."""
    return ENVIRONMENTS / version / "bin/python"


def is_made(version: str) -> bool:
    stamp = _stamp(version)
    return stamp.exists() and stamp.read_text(encoding="utf-8") == _content(version)


def _stamp(version: str) -> Path:
    return ENVIRONMENTS / version / "made.txt"


def _content(python: str) -> str:
    return f"torch {version('torch')}, {NUMPY[python]}\n{REQUIREMENTS.read_text(encoding='utf-8')}"


def make(version_: str, python: str) -> Path:
    target = environment(version_)
    if is_made(version_):
        return target
    folder = ENVIRONMENTS / version_
    shutil.rmtree(folder, ignore_errors=True)
    step(f"making an environment for Python {version_}", python, "-m", "venv", "--without-pip", str(folder))
    torch = f"torch=={version('torch').split('+')[0]}"
    # Without dependencies, which are CUDA's libraries and Triton.
    pip_install(target, "--no-deps", torch, "kornia>=0.7.1")
    pip_install(target, "-r", str(REQUIREMENTS), NUMPY[version_])
    (folder / f"lib/python{version_}/site-packages/nvidia").symlink_to(_cuda_libraries(), target_is_directory=True)
    _stamp(version_).write_text(_content(version_), encoding="utf-8")
    return target


def pip_install(python: Path, *what: str):
    step(f"installing {' '.join(what)}", *PIP, "--python", str(python), "install", "-q", "--no-compile", *what)


def build_wheel(folder: Path) -> Path:
    """Of a copy: a build leaves its own files beside the sources."""
    source = folder / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "output", "build", "*.egg-info", "__pycache__"))
    step("building a wheel", *PIP, "wheel", "-q", "--no-deps", "-w", str(folder), str(source))
    return next(folder.glob("*.whl"))


def test(version: str, python: Path, wheel: Path) -> tuple[int, str]:
    """(pytest's exit code, what it was and how it ended)."""
    pip_install(python, "--no-deps", "--force-reinstall", str(wheel))
    files = [f"tests/{name}" for name in TESTS]
    # One thread each, because they run at the same time.
    alone = {"COMFYUI_PATH": str(ENVIRONMENTS / "no-comfyui"), "OMP_NUM_THREADS": "1"}
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", f"not ({NOT})", *files]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | alone, capture_output=True, text=True)
    with_ = _output(str(python), "-c", VERSIONS)
    if done.returncode:
        print(done.stdout, done.stderr)
    if not with_:
        return 1, f"Python {version}: the pack's parts without ComfyUI cannot be imported, or bring Triton in"
    return done.returncode, f"Python {version}, {with_}, without Triton: {done.stdout.strip().splitlines()[-1]}"


if __name__ == "__main__":
    sys.exit(main())
