"""Short sampling runs of the stand-in networks over a context, with and without ISA. Needs ComfyUI."""

import comfy.sample
import torch
from liveditor_isa.comfyui.attach import attach_isa
from liveditor_isa.isa_core import ISAConfig
from liveditor_isa.runtime.live import LiveSettings, Settings
from liveditor_isa.runtime.schedule import Schedule

FULL = ISAConfig(keep_ratio=1, dense_query_ratio=1)
TEXT = torch.randn(1, 9, 64, generator=torch.Generator().manual_seed(5))
STEPS, BLOCKS = 5, 4


def latent(frames=3, height=16, width=24, seed=0):
    return torch.randn(1, 16, frames, height, width, generator=torch.Generator().manual_seed(seed))


def sample(
    model, contexts=(latent(seed=1),), steps=STEPS, sampler="euler", cfg=2.5, noise=latent(seed=9), negative_contexts=None,
    callback=None,
):  # fmt: skip
    """negative_contexts: of the pass without the prompt, if they are others. callback: core's, called after each step."""
    positive, negative = (
        [[words, {"context_latents": list(given)} if given else {}]]
        for words, given in ((TEXT, contexts), (TEXT * 0, contexts if negative_contexts is None else negative_contexts))
    )
    return comfy.sample.sample(
        model, noise, steps, cfg, sampler, "simple", positive, negative, noise * 0, seed=1, callback=callback
    )


def attached(model, config=ISAConfig(), schedule=Schedule(), backend="torch"):
    """(model, lines the node would show after each run)."""
    shown = []
    return attach_isa(model, LiveSettings(Settings(config)), schedule, backend, shown.append), shown


def relative_error(out, reference):
    return float((out - reference).norm() / reference.norm())
