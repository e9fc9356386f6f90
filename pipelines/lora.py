"""LoRAs on the diffusers host: in every naming that ComfyUI's host takes (`checkpoint/lora.py`), with the same effect."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path

import torch
from torch import nn

from ..checkpoint.keys import CheckpointError
from ..checkpoint.lora import ALPHA, DIFF, DIFF_BIAS, DOWN, METADATA, UP, Lora, read_lora
from ..checkpoint.opening import open_checkpoint
from .checkpoint import diffusers_names
from .diffusers_parts import fetch_state_dict

WEIGHTS = (".safetensors", ".sft", ".bin", ".pt", ".pth", ".ckpt")

log = logging.getLogger(__name__)


def load_lora(pipe, source, adapter_name: str | None = None, low_cpu_mem_usage: bool = True, hotswap: bool = False, **where):
    """Load a LoRA into the pipeline's transformer.

    source: a file, a folder that holds one, a dictionary of tensors, or the name of a repository on the Hub.
    where: what diffusers takes to find it there (weight_name, subfolder, revision, ...).

    Raises CheckpointError for a file that holds no LoRA for this model, or of a kind that only ComfyUI applies.
    """
    name, tensors, metadata = _opened(source, where)
    transformer = getattr(pipe.transformer, "_orig_mod", pipe.transformer)  # of a compiled one
    names = _names(transformer)
    shapes = {official: tuple(_parameter(transformer, own).shape) for official, own in names.items()}
    lora = read_lora(tensors, shapes, name, metadata)
    if kinds := lora.other_kinds():
        raise CheckpointError(
            f"{name} is of a kind that diffusers does not apply as ComfyUI does ({', '.join(kinds)}): use it in ComfyUI, or "
            "extract a LoRA from it."
        )
    if not lora.modules:
        raise CheckpointError(f"{name} holds no LoRA for this model: it changes text encoders only.")
    for note in lora.notes:
        log.warning(note)
    matrices = {f"transformer.{key}": tensor for key, tensor in _matrices(lora, names, shapes).items()}
    if matrices:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # that there are two is intended
            pipe.load_lora_into_transformer(
                matrices, transformer, adapter_name, _pipeline=pipe, low_cpu_mem_usage=low_cpu_mem_usage, hotswap=hotswap
            )
    _add_differences(transformer, lora, names)


def unload_differences(transformer: nn.Module):
    """Take back what files with differences of whole weights or biases have changed."""
    for parameter, before in getattr(transformer, "weights_before_loras", {}).values():
        parameter.data = before.to(parameter.device, parameter.dtype)
    transformer.weights_before_loras = {}


def _names(transformer: nn.Module) -> dict[str, str]:
    """{official name: name in the transformer as it was before any LoRA}."""
    own = [name.replace(".base_layer.", ".") for name in transformer.state_dict() if ".lora_" not in name]
    return diffusers_names(own)


def _parameter(transformer: nn.Module, name: str) -> torch.Tensor:
    """name: as before any LoRA."""
    module, _, last = name.rpartition(".")
    home = transformer.get_submodule(module)
    return getattr(getattr(home, "base_layer", home), last)


def _matrices(lora: Lora, names: dict[str, str], shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """A state dict as PEFT names it, each alpha multiplied into its upper matrix."""
    tensors = {}
    for module, endings in lora.modules.items():
        if UP not in endings:
            continue
        down, up = (lora.tensors[f"{module}.{ending}"] for ending in (DOWN, UP))
        scale = float(lora.tensors[f"{module}.{ALPHA}"]) / down.shape[0] if ALPHA in endings else 1.0
        own, shape = names[f"{module}.weight"].removesuffix(".weight"), shapes[f"{module}.weight"]
        tensors[f"{own}.lora_A.weight"] = down.reshape(len(down), *shape[1:])
        up = up.float().mul(scale).to(up.dtype) if scale != 1 else up
        tensors[f"{own}.lora_B.weight"] = up.reshape(*up.shape[:1], len(down), *(1 for _ in shape[2:]))
    return tensors


def _add_differences(transformer: nn.Module, lora: Lora, names: dict[str, str]):
    """Add differences of whole weights and biases, which PEFT has no place for, to the weights themselves."""
    before = transformer.__dict__.setdefault("weights_before_loras", {})
    for module, endings in lora.modules.items():
        for ending, part in ((DIFF, "weight"), (DIFF_BIAS, "bias")):
            if ending not in endings:
                continue
            name = names.get(f"{module}.{part}") or names[module]
            parameter = _parameter(transformer, name)
            if parameter.is_meta:
                raise CheckpointError("A LoRA with differences of weights cannot be added to offloaded layers: load it before.")
            difference = lora.tensors[f"{module}.{ending}"].to(parameter.device, torch.float32)
            before.setdefault(name, (parameter, parameter.data))
            # Not in place: the weights may be a file's, mapped read-only.
            parameter.data = (parameter.data.float() + difference).to(parameter.dtype)


def _opened(source, where: dict) -> tuple[str, dict[str, torch.Tensor], dict[str, str]]:
    """(name for messages, tensors under the file's own names, metadata)."""
    if isinstance(source, dict):
        return "This dictionary", source, {}
    path = Path(source) / (where.get("subfolder") or "") if Path(source).is_dir() else Path(source)
    if not path.exists():
        return str(source), *_of_the_hub(source, where)
    config: dict[str, str] = {}
    if path.is_dir():
        path = path / where["weight_name"] if where.get("weight_name") else _only_file(path)
        config = _peft_config(path)
    checkpoint = open_checkpoint(path)
    tensors = {raw: checkpoint.tensor(name) for name, raw in checkpoint.sources.items()}
    return path.name, tensors, config | dict(checkpoint.metadata)


def _of_the_hub(source, where: dict) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    options = dict.fromkeys(
        ("weight_name", "use_safetensors", "local_files_only", "cache_dir", "force_download", "proxies", "token", "revision",
         "subfolder")
    )  # fmt: skip
    options |= {"use_safetensors": True, "user_agent": {"file_type": "attn_procs_weights", "framework": "pytorch"}}
    tensors, config = fetch_state_dict(source, **{**options, **where}, allow_pickle=False)
    return tensors, {METADATA: json.dumps(config)} if config else {}


def _only_file(folder: Path) -> Path:
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in WEIGHTS)
    if len(files) == 1:
        return files[0]
    if not files:
        raise CheckpointError(f"{folder} holds no LoRA for this model: there is no file of weights in it.")
    raise CheckpointError(f"{folder} holds {len(files)} files, {files[0].name} and {files[1].name} among them: name the LoRA.")


def _peft_config(path: Path) -> dict[str, str]:
    """PEFT writes alpha into a file beside the weights."""
    try:
        return {METADATA: (path.parent / "adapter_config.json").read_text(encoding="utf-8")}
    except OSError:
        return {}
