"""Small in-context transformers of diffusers with arguments of their forward calls: (model, arguments, attentions)."""

import torch
from diffusers import FluxTransformer2DModel, QwenImageTransformer2DModel
from liveditor_isa.checkpoint.included import path_of
from liveditor_isa.isa_core import ISAConfig, TokenLayout
from liveditor_isa.pipelines.transformer import LIVEditorTransformer3DModel

FULL = ISAConfig(keep_ratio=1, dense_query_ratio=1)
SPARSE = ISAConfig(keep_ratio=0.3, dense_query_ratio=0.3, block_size=16)
LAYOUT = TokenLayout(9 + 64, (64, 24))
"""Text and target, and two pictures, of the two models that are not LIVEditor."""


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def grid_ids(number, height, width):
    ids = torch.zeros(height, width, 3)
    ids[..., 0] = number
    ids[..., 1] += torch.arange(height)[:, None]
    ids[..., 2] += torch.arange(width)
    return ids.reshape(-1, 3)


def flux():
    torch.manual_seed(0)
    model = FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=8, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    arguments = {
        "hidden_states": noise(1, 152, 16), "encoder_hidden_states": noise(1, 9, 32), "pooled_projections": noise(1, 8),
        "timestep": torch.tensor([0.5]), "txt_ids": torch.zeros(9, 3),
        "img_ids": torch.cat([grid_ids(0, 8, 8), grid_ids(1, 8, 8), grid_ids(2, 4, 6)]),
    }  # fmt: skip
    return model.eval(), arguments, 3


def qwen(**options):
    torch.manual_seed(0)
    model = QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=32,
        axes_dims_rope=(4, 4, 8), **options,
    )  # fmt: skip
    arguments = {
        "hidden_states": noise(1, 152, 16), "encoder_hidden_states": noise(1, 9, 32), "timestep": torch.tensor([0.5]),
        "encoder_hidden_states_mask": None, "img_shapes": [[(1, 8, 8), (1, 8, 8), (1, 4, 6)]],
    }  # fmt: skip
    return model.eval(), arguments, 2


def liveditor():
    model = LIVEditorTransformer3DModel.from_single_file(path_of("diffusion_model"), torch.float32)
    latents = [noise(1, 16, 2, 8, 10, seed=seed) for seed in range(2)]
    arguments = {
        "hidden_states": latents[0], "timestep": torch.tensor([700.0]), "encoder_hidden_states": noise(1, 12, 256),
        "context_latents": [latents[1], noise(1, 16, 1, 6, 8)],
    }  # fmt: skip
    return model, arguments, 10


def difference(one, other) -> float:
    return ((one - other).norm() / one.norm()).item()
