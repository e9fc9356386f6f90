"""Which frames the safety score looks at, how a picture reaches the network, and what the gate does with the score."""

import numpy as np
import pytest
import torch

pytest.importorskip("cv2", reason="the data extra is not installed")

from liveditor_isa.curation import safety  # noqa: E402
from liveditor_isa.curation.gates import GATES, of_stage, verdict  # noqa: E402
from liveditor_isa.curation.settings import Settings, StageChoice  # noqa: E402
from liveditor_isa.curation.stages import clips  # noqa: E402
from liveditor_isa.evaluation import weights  # noqa: E402
from liveditor_isa.pipelines.request import ModelChoice  # noqa: E402


def test_the_worst_of_the_first_the_middle_and_the_last_frame_counts(monkeypatch):
    monkeypatch.setattr(safety, "is_here", lambda name: True)
    monkeypatch.setattr(safety, "probability", lambda frame: float(frame[0, 0, 0]) / 100)
    frames = torch.zeros(9, 16, 16, 3, dtype=torch.uint8)
    frames[[1, 3, 7]] = 99
    assert safety.unsafe(frames) == 0
    for number in (0, 4, 8):
        frames[number] = 90
        assert safety.unsafe(frames) == 0.9
        frames[number] = 0
    assert safety.unsafe(frames[:1]) == 0


def test_without_its_weights_nothing_is_measured_and_nothing_rejected(monkeypatch, tmp_path):
    monkeypatch.setenv("LIVEDITOR_MODELS", str(tmp_path))
    assert safety.unsafe(torch.zeros(3, 16, 16, 3, dtype=torch.uint8)) is None
    gates = [gate for gate in of_stage(GATES, "clips") if gate.name == "safety"]
    found = verdict({"unsafe": None}, gates)
    assert found.is_kept and found.unmeasured == ("safety",)
    assert verdict({"unsafe": 0.8}, gates).is_kept
    assert verdict({"unsafe": 0.81}, gates).reason == "not safe for work"


def test_a_damaged_file_ends_the_stage_before_its_first_clip(monkeypatch, tmp_path):
    """It sent every clip into quarantine."""
    monkeypatch.setenv("LIVEDITOR_MODELS", str(tmp_path))
    weights.own_file(safety.MODEL).write_bytes(b"half of a file")
    safety._network.cache_clear()
    with pytest.raises(RuntimeError, match="cannot be read .*: remove it"):
        clips.load(StageChoice(Settings(), ModelChoice(), (), False, False))


def test_a_picture_is_squeezed_cut_and_centred():
    """Blue, green, red; a frame of one colour stays itself but for the JPEG."""
    plain = torch.tensor([200, 100, 50], dtype=torch.uint8).expand(90, 160, 3).contiguous()
    found = safety._input(plain)
    assert found.shape == (224, 224, 3) and found.dtype == np.float32 and found.flags.c_contiguous
    assert np.abs(found - (np.float32([50, 100, 200]) - np.float32(safety.MEAN))).max() <= 2
    marked = plain.clone()
    marked[:3] = 255  # within the 16 of 256 rows that are cut off
    assert np.abs(safety._input(marked) - found).mean() < 1


def test_the_graph_is_read_by_opencv(monkeypatch):
    """A graph of one layer in place of the real one, whose values tests marked long compare: [1, 224, 224, 3] -> [1, 2]."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Transpose", ["input"], ["channels"], perm=[0, 3, 1, 2]),
        helper.make_node("GlobalAveragePool", ["channels"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight"], ["outputs"]),
    ]
    weight = onnx.numpy_helper.from_array(np.float32([[0, 1], [0, 0], [0, 0]]), "weight")
    ends = [
        helper.make_tensor_value_info(name, kind, shape) for name, shape in (("input", [1, 224, 224, 3]), ("outputs", [1, 2]))
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight]), opset_imports=[helper.make_opsetid("", 13)]
    )
    model.ir_version = 8
    content = torch.frombuffer(bytearray(model.SerializeToString()), dtype=torch.uint8)
    monkeypatch.setattr(safety, "tensors_of", lambda name: {"onnx": content})
    safety._network.cache_clear()
    try:
        blue = torch.zeros(64, 64, 3, dtype=torch.uint8)
        blue[..., 2] = 254
        assert safety.probability(blue) == pytest.approx(254 - 104, abs=2)
    finally:
        safety._network.cache_clear()
