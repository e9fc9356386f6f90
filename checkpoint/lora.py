"""LoRA files in every naming that people have, as changes of LIVEditor's weights under official names."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from .keys import WRAPPERS, CheckpointError, from_diffusers

PREFIXES = (*WRAPPERS, "base_model.model.", "base_model.", "diffusion_model.", "transformer.", "unet.", "pipe.", "dit.")
"""What trainers put in front of a module's name, also several of them: ComfyUI, PEFT, diffusers, DiffSynth."""

FLAT_PREFIXES = ("lora_unet__", "lora_unet_", "lora_transformer_", "lycoris_")
"""In front of names with underscores instead of dots: kohya, musubi, OneTrainer, LyCORIS."""

TEXT_ENCODERS = ("lora_te", "text_encoder", "text_encoders.", "lora_prior_te")

DOWN, UP, ALPHA, DIFF, DIFF_BIAS, DORA = "lora_down.weight", "lora_up.weight", "alpha", "diff", "diff_b", "dora_scale"
"""Endings as ComfyUI calls them."""

METADATA = "lora_adapter_metadata"
"""Key under which diffusers writes PEFT's configuration into a file's metadata."""

_ADAPTER = r"(?:\.(?!weight$|bias$)[^.]+)?"  # PEFT's name for an adapter: lora_A.default.weight
ENDINGS = [
    (rf"(?:lora_A|lora_down|lora\.down|lora_linear_layer\.down){_ADAPTER}(?:\.weight)?", DOWN),
    (rf"(?:lora_B|lora_up|lora\.up|lora_linear_layer\.up){_ADAPTER}(?:\.weight)?", UP),
    (rf"(?:lora_B|lora_up){_ADAPTER}\.bias", "up_bias"),
    (rf"lora_magnitude_vector{_ADAPTER}(?:\.weight)?", DORA),
    (r"w_norm", DIFF),
    (r"b_norm", DIFF_BIAS),
]

PLAIN = {DOWN, UP, ALPHA, DIFF, DIFF_BIAS}
"""Endings of a LoRA proper and of plain differences of weights. Every other one belongs to another kind of adapter."""

KINDS = {
    "lokr_": "LoKr", "hada_": "LoHa", "oft_": "OFT", "dora_scale": "DoRA", "lora_mid": "LoCon", "reshape_weight": "reshaped",
    "set_weight": "replaced",
}  # fmt: skip
"""Names for users of those other kinds, by the beginning of an ending."""


@dataclass(frozen=True)
class Lora:
    """The changes of a LoRA file to one model.

    tensors: {f"{module}.{ending}": tensor}, modules by official name, endings as ComfyUI calls them.
    modules: {module: its endings}. text_encoders: names of the file's entries for text encoders.
    notes: sentences for the user about what is not applied.
    """

    tensors: dict[str, torch.Tensor]
    modules: dict[str, set[str]]
    text_encoders: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def other_kinds(self) -> list[str]:
        """Names of the kinds of adapter in it that are no LoRA proper."""
        endings = {ending for found in self.modules.values() for ending in found - PLAIN}
        return sorted({next((name for part, name in KINDS.items() if part in ending), ending) for ending in endings})


def read_lora(tensors: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]], name: str = "This file",
              metadata: Mapping[str, str] | None = None) -> Lora:  # fmt: skip
    """The changes that `tensors`, under a file's own names, make to a model with weights of `shapes` (by official name).

    name: of the file, for messages. metadata: of a safetensors file; diffusers and PEFT keep a LoRA's alpha there.
    Raises CheckpointError for a file that holds no LoRA for this model, or one without any effect.
    """
    names = Names(shapes)
    found: dict[str, dict[str, torch.Tensor]] = {}
    foreign: list[str] = []
    scales = _Scales(metadata or {})
    for raw, tensor in tensors.items():
        if (place := names.place(raw)) is None:
            foreign.append(raw)
            continue
        module, ending, spelled = place
        if ending in found.setdefault(module, {}):
            raise CheckpointError(f"{name} holds two LoRAs, {raw} is the second for {module}: save each in a file of its own.")
        found[module][ending] = tensor
        if ending == UP and tensor.ndim > 1 and (alpha := scales.alpha(spelled, tensor.shape[1])) is not None:
            found[module].setdefault(ALPHA, torch.tensor(alpha))
    text = tuple(raw for raw in foreign if raw.startswith(TEXT_ENCODERS))
    foreign = [raw for raw in foreign if not raw.startswith(TEXT_ENCODERS)]
    misfits: list[str] = []
    for module, parts in list(found.items()):
        found[module] = _finished(parts)
        if fault := _misfit(module, found[module], shapes):
            misfits.append(fault)
            del found[module]
    if not found and not (text and not misfits):
        raise _holds_none(name, foreign, misfits)
    if found and not any(map(_has_effect, found.values())):
        raise CheckpointError(f"{name} changes nothing: all of its weights are zero, pick one that was trained.")
    return Lora(
        {f"{module}.{ending}": tensor for module, parts in found.items() for ending, tensor in parts.items()},
        {module: set(parts) for module, parts in found.items()},
        text,
        tuple(_notes(name, len(found), foreign, misfits)) if found else (),
    )


class Names:
    """The modules of a model, and every name that files have for them. shapes: of its weights, by official name."""

    def __init__(self, shapes: Iterable[str]):
        self.modules = {re.sub(r"\.(weight|bias)$", "", name) for name in shapes}
        self._flat = {module.replace(".", "_"): module for module in self.modules}

    def place(self, raw: str) -> tuple[str, str, str] | None:
        """(module, ending, the module as the file spells it) of an entry; None if the model has no such module."""
        first, dot, rest = raw.partition(".")
        if flat := next((first.removeprefix(prefix) for prefix in FLAT_PREFIXES if first.startswith(prefix)), None):
            module = self._flat.get(flat) or self._flat.get(from_diffusers(flat + "_", "_").rstrip("_"))
            return (module, _ending(rest), first) if module and rest else None
        name = raw
        while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), None):
            name = name.removeprefix(prefix)
        name = re.sub(r"\.diff_m$", ".modulation.diff", name)
        for spelled in (name, from_diffusers(name)):
            parts = spelled.split(".")
            for length in range(len(parts) - 1, 0, -1):
                if (module := ".".join(parts[:length])) in self.modules:
                    ending = ".".join(parts[length:])
                    return module, _ending(ending), name.removesuffix(f".{ending}")
        return None


def _ending(rest: str) -> str:
    return next((ending for pattern, ending in ENDINGS if re.fullmatch(pattern, rest)), rest)


class _Scales:
    """alpha of modules, from the configuration that PEFT and diffusers write into a file's metadata."""

    def __init__(self, metadata: Mapping[str, str]):
        try:
            config = json.loads(metadata.get(METADATA, "{}"))
            self._config = {key.removeprefix("transformer."): value for key, value in config.items()}
        except (ValueError, TypeError, AttributeError, RecursionError):
            self._config = {}

    def alpha(self, module: str, rank: int) -> float | None:
        patterns = self._config.get("alpha_pattern") or {}
        alpha = self._config.get("lora_alpha")
        if isinstance(patterns, dict):
            alpha = next(
                (patterns[key] for key in patterns if re.search(rf"(^|\.){re.escape(key.strip('^$'))}$", module)), alpha
            )
        if not isinstance(alpha, (int, float)):
            return None
        return alpha * math.sqrt(rank) if self._config.get("use_rslora") else alpha


def _finished(parts: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A bias that belongs to the upper matrix as a difference of the bias; PEFT's magnitudes as DoRA's column."""
    parts = dict(parts)
    if (bias := parts.pop("up_bias", None)) is not None:
        scale = float(parts[ALPHA].float().mean()) / max(1, parts[DOWN].shape[0]) if {ALPHA, DOWN} <= parts.keys() else 1.0
        parts[DIFF_BIAS] = parts.get(DIFF_BIAS, 0) + scale * bias
    if DORA in parts and parts[DORA].ndim == 1:
        parts[DORA] = parts[DORA][:, None]
    return parts


def _misfit(module: str, parts: dict[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Why the parts do not belong to the module, or None."""
    weight = tuple(shapes.get(f"{module}.weight", shapes.get(module, ())))
    bias = tuple(shapes.get(f"{module}.bias", ()))
    down, up = parts.get(DOWN), parts.get(UP)
    if (down is None) != (up is None):
        return f"{module} has one matrix of two"
    if not parts.keys() - {ALPHA}:
        return f"{module} has no matrix"
    if ALPHA in parts and parts[ALPHA].numel() != 1 or any(t is not None and t.ndim < 2 for t in (down, up)):
        return f"{module} has matrices or an alpha that are none"
    wrong = []
    if down is not None and up is not None and "reshape_weight" not in parts and "lora_mid.weight" not in parts:
        size = (up.shape[0], math.prod(down.shape[1:]))
        if len(weight) < 2 or size != (weight[0], math.prod(weight[1:])) or math.prod(up.shape[1:]) != down.shape[0]:
            wrong.append(f"{'×'.join(map(str, size))} for a weight of {'×'.join(map(str, weight))}")
    for ending, shape in ((DIFF, weight), (DIFF_BIAS, bias)):
        if ending in parts and tuple(parts[ending].shape) != shape:
            there = "×".join(map(str, parts[ending].shape))
            wrong.append(
                f"{there} for {'a bias of' if ending == DIFF_BIAS else 'a weight of'} {'×'.join(map(str, shape)) or 'none'}"
            )
    return f"{module} has {wrong[0]}" if wrong else None


def _has_effect(parts: dict[str, torch.Tensor]) -> bool:
    if parts.keys() - PLAIN - {DORA}:
        return True
    if any(_any(parts[ending]) for ending in (DIFF, DIFF_BIAS) if ending in parts):
        return True
    if UP not in parts or (ALPHA in parts and not float(parts[ALPHA])):
        return False
    return DORA in parts or _any(parts[UP]) and _any(parts[DOWN])


def _any(tensor: torch.Tensor) -> bool:
    return bool(tensor.float().any())  # 8-bit types have no `any` of their own


def _kinds(raw_names: Iterable[str]) -> list[str]:
    """Modules by kind, the most frequent first: numbers become *."""
    modules = dict.fromkeys(re.sub(r"\.(lora|alpha|diff|hada|lokr|oft|dora|weight|bias).*", "", raw) for raw in raw_names)
    kinds = Counter(re.sub(r"(?<=[._])\d+(?=[._]|$)", "*", module) for module in modules)
    return [kind[:80] for kind, _ in kinds.most_common()]


def _holds_none(name: str, foreign: list[str], misfits: list[str]) -> CheckpointError:
    if misfits:
        why = f"it was made for a model of another size, {misfits[0]}"
    elif any("lora" in raw.lower() or ".diff" in raw or ".hada_" in raw or ".lokr_" in raw for raw in foreign):
        why = f"its modules are called {_kinds(foreign)[0]!r} and the like, which this model has not"
    else:
        why = "there is no LoRA in it at all"
    return CheckpointError(
        f"{name} holds no LoRA for this model: {why}; pick one made for LIVEditor or for Wan 2.1 or 2.2 14B."
    )


def _notes(name: str, applied: int, foreign: list[str], misfits: list[str]):
    kinds = _kinds(foreign)
    if kinds:
        more = f" and {len(kinds) - 3} more kinds" if len(kinds) > 3 else ""
        yield f"{name}: {applied} modules are applied; this model has none called {', '.join(kinds[:3])}{more}."
    if misfits:
        more = f" and {len(misfits) - 1} more" if len(misfits) > 1 else ""
        yield f"{name}: {applied} modules are applied; {misfits[0]}{more}, left out."
