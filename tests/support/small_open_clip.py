"""CLIP as open_clip has it, by the names of its tensors and step by step in plain PyTorch; and a folder as a user of HPSv2's file makes it."""

import json
from pathlib import Path

import torch
from small_clip import write_clip
from torch import nn

SIDE, PATCH, WIDTH, HEADS, LAYERS, JOINT, TOKENS = 32, 8, 16, 2, 2, 12, 77


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.mlp = nn.Module()
        self.mlp.c_fc, self.mlp.c_proj = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x, mask=None):
        seen = self.ln_1(x)
        x = x + self.attn(seen, seen, seen, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp.c_proj(nn.functional.gelu(self.mlp.c_fc(self.ln_2(x))))


def transformer():
    whole = nn.Module()
    whole.resblocks = nn.ModuleList(Block() for _ in range(LAYERS))
    return whole


class Visual(nn.Module):
    def __init__(self):
        super().__init__()
        self.class_embedding = nn.Parameter(torch.randn(WIDTH))
        self.positional_embedding = nn.Parameter(torch.randn((SIDE // PATCH) ** 2 + 1, WIDTH))
        self.proj = nn.Parameter(torch.randn(WIDTH, JOINT))
        self.conv1 = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
        self.ln_pre, self.ln_post, self.transformer = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), transformer()

    def forward(self, pictures):
        patches = self.conv1(pictures).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(pictures), 1, -1), patches], dim=1) + self.positional_embedding
        x = self.ln_pre(x)
        for block in self.transformer.resblocks:
            x = block(x)
        return self.ln_post(x[:, 0]) @ self.proj


class PlainCLIP(nn.Module):
    def __init__(self, words: int):
        super().__init__()
        self.visual, self.transformer = Visual(), transformer()
        self.token_embedding, self.ln_final = nn.Embedding(words, WIDTH), nn.LayerNorm(WIDTH)
        self.positional_embedding = nn.Parameter(torch.randn(TOKENS, WIDTH))
        self.text_projection = nn.Parameter(torch.randn(WIDTH, JOINT))
        self.logit_scale = nn.Parameter(torch.tensor(4.6))

    def encode_image(self, pictures):
        return self.visual(pictures)

    def encode_text(self, ids):
        """ids: [N, TOKENS], with 0 after the end, whose number is the highest."""
        mask = torch.full((TOKENS, TOKENS), float("-inf")).triu(1)
        x = self.token_embedding(ids) + self.positional_embedding
        for block in self.transformer.resblocks:
            x = block(x, mask)
        return self.ln_final(x)[torch.arange(len(ids)), ids.argmax(-1)] @ self.text_projection


def plain(words: int) -> PlainCLIP:
    torch.manual_seed(1)
    return PlainCLIP(words).eval()


def by_open_clip(words: int):
    """The same by the package itself."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    torch.manual_seed(1)
    seen = CLIPVisionCfg(layers=LAYERS, width=WIDTH, head_width=WIDTH // HEADS, mlp_ratio=2, patch_size=PATCH, image_size=SIDE)
    said = CLIPTextCfg(context_length=TOKENS, vocab_size=words, width=WIDTH, heads=HEADS, layers=LAYERS, mlp_ratio=2)
    return CLIP(JOINT, seen, said).eval()


def write_hps(folder: Path, make=plain):
    """config.json and the processor beside HPS.pt, as HPSv2's file is; returns the model that the file holds."""
    write_clip(folder)
    (folder / "model.safetensors").unlink()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for tower in ("text_config", "vision_config"):
        config[tower]["hidden_act"] = "gelu"
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    model = make(config["text_config"]["vocab_size"])
    torch.save({"epoch": 3, "state_dict": model.state_dict()}, folder / "HPS.pt")
    return model
