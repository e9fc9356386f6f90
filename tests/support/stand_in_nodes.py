"""Nodes for the server in the tests, in the place of encoders whose sizes core fixes at gigabytes of weights."""

import torch
from node_helpers import conditioning_set_values


class StandInVAE:
    """Latents of the shapes of MiniMax H3's two VAEs, with the values of the pixels or the sound."""

    audio_sample_rate = 32000

    def encode(self, given: torch.Tensor) -> torch.Tensor:
        """Frames [T, H, W, 3] -> [1, 24, t, H/16, W/16]; sound [1, samples, 2] -> [1, 32, 2, t]."""
        if given.ndim == 3:
            return torch.nn.functional.avg_pool1d(given.movedim(1, 2), 800)[:, None].repeat(1, 32, 1, 1)
        frames = len(given)
        latents = 1 if frames == 1 else (frames - 5) // 17 * 5 + 2
        shape = latents, given.shape[1] // 16, given.shape[2] // 16
        small = torch.nn.functional.adaptive_avg_pool3d(given.movedim(3, 0)[None], shape)
        return small.repeat(1, 8, 1, 1, 1) * 2 - 1


class LoadStandInVAE:
    RETURN_TYPES, FUNCTION, CATEGORY = ("VAE",), "load", "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def load(self):
        return (StandInVAE(),)


class TextMask:
    """Adds what LTX's text encoder says beside the text: which of its tokens are no padding. All of them."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("CONDITIONING",), "masked", "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"conditioning": ("CONDITIONING",)}}

    def masked(self, conditioning):
        tokens = conditioning[0][0].shape[1]
        return (conditioning_set_values(conditioning, {"attention_mask": torch.ones(1, tokens)}),)


NODE_CLASS_MAPPINGS = {"StandInVAE": LoadStandInVAE, "StandInTextMask": TextMask}
