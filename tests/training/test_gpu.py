"""Training steps recorded as CUDA graphs give what the same steps give without."""

import pytest
import torch
from liveditor_isa.isa_core import ISAConfig
from liveditor_isa.training.tiny import text, vae
from liveditor_isa.training.tiny.decoder import DecoderSettings, DecoderTrainer
from liveditor_isa.training.tiny.editor import EditorSettings, EditorTrainer, Phase
from liveditor_isa.training.tiny.latents import LatentBatch
from safetensors.torch import save_file

if not torch.cuda.is_available():
    pytest.skip("needs a GPU: on a CPU nothing is recorded", allow_module_level=True)

ASIDE = torch.cuda.Stream()


def latents(step: int, size: tuple) -> LatentBatch:
    frames, height, width, edits = size
    generator = torch.Generator("cuda").manual_seed(step)
    shape = edits, 16, (frames + 3) // 4, height // 8, width // 8
    source, target = (torch.randn(shape, device="cuda", generator=generator).bfloat16() for _ in range(2))
    tokens = torch.randint(3, 200, (edits, text.LENGTH), device="cuda", generator=generator)
    return LatentBatch(source, target, torch.ones(edits, 1, *shape[2:], device="cuda").bfloat16(), tokens)


def compare(run, cases):
    """cases: (key, inputs) each. Recorded ones, in turn and again, against direct ones."""
    recorded = []
    for key, inputs in (*cases, *cases):
        loss, *_ = run(key, *inputs)
        recorded.append((key, inputs, loss.clone(), run.gradient.clone()))
    for key, inputs, loss, gradient in recorded:
        # Only now: once gradients have been accumulated outside, on a stream of their own, nothing more can be recorded.
        torch.cuda.synchronize()
        with torch.cuda.stream(ASIDE):
            direct, *_ = run._once(inputs)
        torch.cuda.synchronize()
        torch.testing.assert_close(loss, direct, rtol=0.01, atol=0)
        assert (gradient - run.gradient).norm() < 0.02 * run.gradient.norm(), key


@pytest.mark.parametrize("isa", [None, ISAConfig()], ids=["full", "isa"])
def test_the_editors(isa):
    sizes = (17, 96, 128, 4), (9, 256, 256, 2)
    if isa:
        sizes = ((9, 256, 256, 2), (5, 256, 256, 2))
    trainer = EditorTrainer(EditorSettings(blocks=3, phases=(Phase(9, sizes, (1e-3, 1e-3), isa),)), latents, "cuda")
    torch.nn.init.normal_(trainer.network.head.head.weight, std=0.1)
    # Detached: a graph kept alive on the default stream forbids further recordings.
    before = [weight.detach().clone() for weight in trainer.weights]
    losses = [trainer.step()["loss"].item() for _ in range(4)]
    assert all(loss > 0 for loss in losses)
    assert not all(torch.equal(one, other) for one, other in zip(before, trainer.weights))
    compare(trainer.gradients, [((size, isa), trainer.noised(latents(step, size), step)) for step, size in enumerate(sizes)])


def clips(step: int) -> torch.Tensor:
    return torch.rand(2, 3, 9, 64, 64, device="cuda", generator=torch.Generator("cuda").manual_seed(step))


def test_the_vaes():
    trainer = vae.VAETrainer(vae.VAESettings(dim=16), clips, "cuda")
    noise = torch.randn(2, 16, 3, 8, 8, device="cuda")
    momentum = torch.zeros((), device="cuda")
    trainer.step()
    assert trainer.statistics[0].abs().sum() > 0
    shape = trainer.video(0).shape
    compare(trainer.gradients, [(shape, (trainer.video(step), noise, momentum)) for step in (1, 2)])


def test_the_decoders(tmp_path):
    export = tmp_path / vae.EXPORT
    save_file({name: x.contiguous() for name, x in vae.new_network(16).state_dict().items()}, export, {"steps": "1"})
    trainer = DecoderTrainer(DecoderSettings(), export, clips, "cuda")
    noise = torch.randn(2, 16, 3, 8, 8, device="cuda")
    trainer.step()
    video = [(2 * clips(step) - 1).contiguous(memory_format=torch.channels_last_3d) for step in (1, 2)]
    compare(trainer.gradients, [(each.shape, (each, noise)) for each in video])
