"""Evaluations of a sampling run, in inference mode, as the server samples, and outside of it."""

import pytest
import torch
from liveditor_isa.comfyui.sampling_run import SamplingRun, Watcher
from liveditor_isa.isa_core import ISAConfig
from liveditor_isa.runtime.live import LiveSettings, Settings


@pytest.mark.parametrize("inference", [True, False])
def test_one_evaluation_however_often_it_is_entered(inference):
    with torch.inference_mode(inference):
        x, sigma = torch.randn(1, 4), torch.ones(1)
        live = LiveSettings(Settings(ISAConfig()))
        live.begin()
        run = SamplingRun(None, None, live, Watcher(), [1.0, 0.5, 0.0], None, [])
        with run.evaluation(x, sigma), run.evaluation(x, sigma):
            pass
        with run.evaluation(x, sigma):  # a guider's second model
            pass
        assert run.evaluations == 1
        with run.evaluation(torch.randn(1, 4), sigma / 2):
            pass
        with run.evaluation(x, sigma / 4):
            pass
        assert run.evaluations == 3
