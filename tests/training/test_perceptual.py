"""The perceptual part of the VAE's loss, on a network of VGG16's shape with random weights."""

import pytest
import torch
from liveditor_isa.training.tiny.losses import PictureLoss, frames_for, reconstruction_loss
from liveditor_isa.training.tiny.perceptual import Perceptual
from safetensors.torch import save_file
from torchvision.models import vgg16


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vgg") / "vgg.safetensors"
    features = vgg16().features[:16].state_dict()
    save_file({f"features.{name}": tensor for name, tensor in features.items()}, path)
    return path


def test_it_is_zero_for_equal_pictures_and_grows_with_the_difference(weights):
    network, picture = Perceptual(weights), torch.rand(2, 3, 32, 32) * 2 - 1
    noise = torch.randn_like(picture)
    distances = [network(picture + strength * noise, picture).item() for strength in (0, 0.05, 0.2)]
    assert distances[0] == 0 < distances[1] < distances[2]


def test_its_gradient_goes_to_the_output_alone(weights):
    output, wanted = (torch.rand(1, 3, 16, 16, requires_grad=True) for _ in range(2))
    Perceptual(weights)(output, wanted).backward()
    assert output.grad.abs().sum() > 0 and wanted.grad is None


def test_other_weights_are_refused(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no weights of torchvision's VGG16"):
        Perceptual(tmp_path / "other.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="broken.safetensors is no safetensors file"):
        Perceptual(tmp_path / "broken.safetensors")


def test_without_weights_the_loss_is_the_reconstruction_alone(weights):
    output, video = (torch.rand(1, 3, 5, 16, 16) * 2 - 1 for _ in range(2))
    seen = frames_for(4, 5, torch.device("cpu"))
    plain = PictureLoss(0.3, None, torch.device("cpu"))(output, video, seen)
    assert plain == reconstruction_loss(output, video)
    assert PictureLoss(0.3, weights, torch.device("cpu"))(output, video, seen) > plain


@pytest.mark.parametrize("frames", [1, 2, 5, 17])
def test_every_frame_is_seen_in_turn_and_always_so_many(frames):
    seen = [frames_for(step, frames, torch.device("cpu")).tolist() for step in range(3)]
    assert len({len(numbers) for numbers in seen}) == 1
    assert all(0 <= number < frames for numbers in seen for number in numbers)
