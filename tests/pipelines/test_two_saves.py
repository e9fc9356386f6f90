"""Two conversions into one folder in diffusers' layout."""

import os

import torch
from liveditor_isa.checkpoint.keys import expected_shapes
from liveditor_isa.pipelines.weights import CONFIG, WEIGHTS, save_for_diffusers
from make_tiny_model import random_like


def test_two_saves_at_once_leave_a_whole_configuration(tmp_path, monkeypatch):
    torch.save(random_like(expected_shapes(128, 32, 8, 1), seed=1), tmp_path / "liveditor.bin")
    folder, replace = tmp_path / "transformer", os.replace

    def second_first(source, target):
        if os.path.basename(target) == CONFIG:
            monkeypatch.setattr(os, "replace", replace)
            save_for_diffusers(tmp_path / "liveditor.bin", folder, overwrite=True)
        return replace(source, target)

    monkeypatch.setattr(os, "replace", second_first)
    save_for_diffusers(tmp_path / "liveditor.bin", folder)
    assert sorted(os.listdir(folder)) == sorted([CONFIG, WEIGHTS])
    assert '"num_layers": 1' in (folder / CONFIG).read_text()
