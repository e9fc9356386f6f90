"""The included pipeline, which the tests of the diffusers host edit with."""

import pytest
import torch
from liveditor_isa.pipelines.pipeline import LIVEditorPipeline


@pytest.fixture(scope="module")
def pipe():
    pipe = LIVEditorPipeline.included(torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe
