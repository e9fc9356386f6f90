"""Preference models in the form of HPSv2 (arXiv 2306.09341): a checkpoint of open_clip, read into a CLIPModel of transformers.

A folder of one holds the .pt file beside config.json and the processor of the CLIP that it was trained from. The score is HPSv2's: the cosine
alone, without the model's scale, of the whole picture in a square, with black beside it.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from ...checkpoint.opening import open_checkpoint
from ...errors import is_out_of_memory
from ...optional import needed
from .. import EXTRA

ENDING = ".pt"
WEIGHTS = ("*.safetensors", "*.bin")
"""Of transformers, which come first."""

BLOCKS = "transformer.resblocks."
IN_BLOCK = {
    "ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
}  # fmt: skip
IN_PROJECTION = "attn.in_proj_"
"""Queries, keys and values in one, above each other."""

OTHERS = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "visual.proj": "visual_projection.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",
    "logit_scale": "logit_scale",
}
TURNED = ("visual.proj", "text_projection")
"""Matrices that open_clip multiplies from the right."""


def checkpoint_in(folder: Path) -> Path | None:
    """Of open_clip, where the folder has no weights of transformers."""
    if any(any(folder.glob(kind)) for kind in WEIGHTS):
        return None
    return next(iter(sorted(folder.glob(f"*{ENDING}"))), None)


def read(folder: Path, checkpoint: Path):
    """A CLIPModel as the folder's config.json says, with the checkpoint's weights and no scale.

    Raises CheckpointError, a sentence, for a damaged file, and ValueError for another model's.
    """
    transformers = needed("transformers", "transformers", EXTRA)
    opened = open_checkpoint(checkpoint)
    network = transformers.CLIPModel(transformers.CLIPConfig.from_pretrained(folder, local_files_only=True))
    try:
        network.load_state_dict(renamed({source: opened.tensor(name) for name, source in opened.sources.items()}))
    except (KeyError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        why = f"no place for {error}" if isinstance(error, KeyError) else str(error).splitlines()[1].strip().rstrip(".")
        raise ValueError(
            f"{checkpoint} is no CLIP of open_clip as {folder / 'config.json'} describes it ({why[:200]}): "
            "put the config.json of the model beside it that it was trained from."
        ) from None
    with torch.no_grad():
        network.logit_scale.zero_()
    return network.eval()


def renamed(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """open_clip's names to transformers'. Raises KeyError for a name that open_clip's CLIP has not."""
    found = {}
    for name, value in tensors.items():
        tower, inner = ("vision_model", name[7:]) if name.startswith("visual.") else ("text_model", name)
        if not inner.startswith(BLOCKS):
            found[OTHERS[name]] = value.T if name in TURNED else value
            continue
        number, part = inner.removeprefix(BLOCKS).split(".", 1)
        block = f"{tower}.encoder.layers.{number}"
        if part.startswith(IN_PROJECTION):
            kind = part.removeprefix(IN_PROJECTION)
            found |= {f"{block}.self_attn.{role}_proj.{kind}": third for role, third in zip("qkv", value.chunk(3))}
        else:
            module, kind = part.rsplit(".", 1)
            found[f"{block}.{IN_BLOCK[module]}.{kind}"] = value
    return found


def squared(frames: torch.Tensor, side: int) -> torch.Tensor:
    """[T, side, side, 3] uint8: the whole of [T, H, W, 3] in the middle, resized by PIL's bicubic filter, black beside it."""
    import numpy as np
    from PIL import Image

    height, width = frames.shape[1:3]
    scale = side / max(height, width)
    high, wide = round(height * scale), round(width * scale)
    images = [Image.fromarray(frame.numpy()).resize((wide, high), Image.Resampling.BICUBIC) for frame in frames]
    small = torch.stack([torch.from_numpy(np.array(image)) for image in images])
    left, top = (side - wide) // 2, (side - high) // 2
    return F.pad(small, (0, 0, left, side - wide - left, top, side - high - top))
