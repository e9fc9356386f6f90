"""Training steps recorded as CUDA graphs give what the same steps give without."""

import pytest
import torch
from liveditor_isa.isa_core import ISAConfig
from liveditor_isa.training import text, vae
from liveditor_isa.training.editor import EditorSettings, EditorTrainer, Phase
from liveditor_isa.training.latents import LatentBatch

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


def gradients(run, key, *inputs):
    if key:
        loss, *_ = run(key, *inputs)
    else:
        # Gradients once accumulated on the default stream would tie later recordings to it.
        with torch.cuda.stream(ASIDE):
            loss, *_ = run._once(inputs)
        torch.cuda.synchronize()
    return [loss.clone(), run.gradient.clone()]


def compare(run, cases):
    """cases: (key, inputs) each. Recorded ones, in turn and again, against direct ones."""
    for key, inputs in (*cases, *cases):
        recorded, direct = gradients(run, key, *inputs), gradients(run, None, *inputs)
        torch.testing.assert_close(recorded[0], direct[0], rtol=0.01, atol=0)
        assert (recorded[1] - direct[1]).norm() < 0.02 * direct[1].norm(), key


@pytest.mark.parametrize("isa", [None, ISAConfig()], ids=["full", "isa"])
def test_the_editors(isa):
    sizes = (17, 96, 128, 4), (9, 256, 256, 2)
    if isa:
        sizes = ((9, 256, 256, 2), (5, 256, 256, 2))
    trainer = EditorTrainer(EditorSettings(blocks=3, phases=(Phase(9, sizes, (1e-3, 1e-3), isa),)), latents, "cuda")
    torch.nn.init.normal_(trainer.network.head.head.weight, std=0.1)
    trainer.isa = isa
    compare(trainer.gradients, [(size, trainer.noised(latents(step, size), step)) for step, size in enumerate(sizes)])
    before = [weight.clone() for weight in trainer.weights]
    losses = [trainer.step()["loss"].item() for _ in range(4)]
    assert all(loss > 0 for loss in losses)
    assert not all(torch.equal(one, other) for one, other in zip(before, trainer.weights))


def test_the_vaes():
    clips = lambda step: torch.rand(2, 3, 9, 64, 64, device="cuda", generator=torch.Generator("cuda").manual_seed(step))  # noqa: E731
    trainer = vae.VAETrainer(vae.VAESettings(dim=16), clips, "cuda")
    noise = torch.randn(2, 16, 3, 8, 8, device="cuda")
    momentum = torch.zeros((), device="cuda")
    compare(trainer.gradients, [(step, (trainer.video(step), noise, momentum)) for step in (1, 2)])
    trainer.step()
    assert trainer.statistics[0].abs().sum() > 0
