"""One LoRA in every naming that people have."""

import torch

TO_DIFFUSERS = {
    "self_attn": "attn1", "cross_attn": "attn2", ".q": ".to_q", ".k": ".to_k", ".v": ".to_v", ".o": ".to_out.0",
    "ffn.0": "ffn.net.0.proj", "ffn.2": "ffn.net.2", "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2", "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2", "time_projection.1": "condition_embedder.time_proj",
    "head.head": "proj_out",
}  # fmt: skip


def diffusers(module: str) -> str:
    for official, theirs in TO_DIFFUSERS.items():
        if official.startswith("."):
            module = module.removesuffix(official) + theirs if module.endswith(official) else module
        else:
            module = module.replace(official, theirs)
    return module


def kohya(module: str) -> str:
    return "lora_unet_" + module.replace(".", "_")


NAMINGS = {
    "ComfyUI": (lambda module: f"diffusion_model.{module}", "lora_down.weight", "lora_up.weight", False),
    "lightx2v": (lambda module: f"diffusion_model.{module}", "lora_down.weight", "lora_up.weight", True),
    "diffusion-pipe": (lambda module: f"diffusion_model.{module}", "lora_A.weight", "lora_B.weight", False),
    "diffusers": (lambda module: f"transformer.{diffusers(module)}", "lora_A.weight", "lora_B.weight", False),
    "diffusers bare": (diffusers, "lora_A.weight", "lora_B.weight", False),
    "PEFT of diffusers": (lambda module: f"base_model.model.{diffusers(module)}", "lora_A.weight", "lora_B.weight", False),
    "PEFT": (lambda module: f"base_model.model.{module}", "lora_A.weight", "lora_B.weight", False),
    "kohya, musubi": (kohya, "lora_down.weight", "lora_up.weight", True),
    "kohya of diffusers": (lambda module: kohya(diffusers(module)), "lora_down.weight", "lora_up.weight", True),
    "Wan-Fun": (lambda module: "lora_unet__" + module.replace(".", "_"), "lora_down.weight", "lora_up.weight", True),
    "DiffSynth": (lambda module: module, "lora_A.default.weight", "lora_B.default.weight", False),
    "DiffSynth's pipe": (lambda module: f"pipe.dit.{module}", "lora_A.default.weight", "lora_B.default.weight", False),
    "bare": (lambda module: module, "lora_A.weight", "lora_B.weight", False),
    "bare, down and up": (lambda module: module, "lora_down.weight", "lora_up.weight", True),
    "SimpleTuner": (
        lambda module: "lycoris_" + diffusers(module).replace(".", "_"),
        "lora_down.weight",
        "lora_up.weight",
        True,
    ),
}
"""{naming: (name of a module, ending of the lower matrix, of the upper one, whether alpha is stored)}."""

ALPHA = 2.0


def pairs(shapes: dict, modules, rank: int = 4, size: float = 0.3) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """{module: (down, up)} at random; the change of its weight is up @ down."""
    found = {}
    for seed, module in enumerate(modules):
        generator = torch.Generator().manual_seed(seed)
        rows, *columns = shapes[f"{module}.weight"]
        down = torch.randn(rank, *columns, generator=generator) * size
        found[module] = down, torch.randn(rows, rank, *(1 for _ in columns[1:]), generator=generator) * size
    return found


def in_naming(changes: dict[str, tuple[torch.Tensor, torch.Tensor]], naming: str) -> dict[str, torch.Tensor]:
    """The same changes as a file of this naming has them."""
    spelled, lower, upper, has_alpha = NAMINGS[naming]
    tensors = {}
    for module, (down, up) in changes.items():
        tensors[f"{spelled(module)}.{lower}"] = down
        tensors[f"{spelled(module)}.{upper}"] = up * len(down) / ALPHA if has_alpha else up
        if has_alpha:
            tensors[f"{spelled(module)}.alpha"] = torch.tensor(ALPHA)
    return tensors
