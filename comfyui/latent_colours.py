"""Colours of the sampler's live preview for LIVEditor-tiny, whose VAE has Wan 2.1's latent format but other colours in its channels."""

from __future__ import annotations

from comfy.latent_formats import Wan21


class LIVEditorTinyLatents(Wan21):
    """Wan 2.1's format with factors for weights/wan_tiny_vae.safetensors.

    `python -m liveditor_isa.benchmarks.clips.preview_colours` fits them, and prints the error beside that of core's: on drawn clips that the fit never
    saw 9 of 255 levels (RMSE; R² 0.97), with core's factors 92 (R² -1.7).
    """

    latent_rgb_factors = [
        [0.4566, 0.443, 0.4414],
        [0.2705, 0.0199, -0.2023],
        [-0.1047, 0.1753, -0.0867],
        [-0.0691, -0.182, -0.0085],
        [-0.197, 0.0795, 0.0025],
        [0.0994, -0.0137, 0.0325],
        [0.0327, -0.2282, -0.1406],
        [0.004, -0.056, -0.0146],
        [0.0492, -0.0216, 0.0457],
        [-0.0197, -0.3219, -0.1087],
        [0.0393, -0.0201, -0.0245],
        [0.038, -0.2538, -0.0837],
        [0.0908, -0.0329, 0.0388],
        [-0.1065, -0.0754, 0.0006],
        [0.0369, -0.039, -0.002],
        [-0.0342, -0.1242, -0.0078],
    ]  # fmt: skip
    latent_rgb_factors_bias = [-0.042, -0.131, -0.1792]

    def __init__(self):
        super().__init__()
        self.taesd_decoder_name = None  # a small decoder of Wan 2.1's latents, which shows wrong colours too
