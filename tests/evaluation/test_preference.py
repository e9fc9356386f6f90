"""A model of preference that the user names: its score is its logit, with one worker and many, and what is no model is said."""

import pickle

import pytest
import torch
from evaluated import right, save, scene, write_rows
from liveditor_isa.command import main
from liveditor_isa.evaluation import scoring_job
from liveditor_isa.evaluation.records import Run
from liveditor_isa.evaluation.results import collect
from PIL import Image
from small_clip import write_clip

pytestmark = pytest.mark.slow
TEXT = "a blue box on a wall"


@pytest.fixture
def clips(tmp_path):
    source, mask = scene()
    save(tmp_path / "source", source)
    save(tmp_path / "edit", right(source, mask))
    rows = [
        {"id": "one", "source": "source", "edit": "edit", "target_prompt": TEXT},
        {"id": "two", "source": "source", "edit": "edit"},
    ]
    return write_rows(tmp_path / "clips.jsonl", *rows)


def scored(clips, run, model) -> int:
    return main(["evaluate", "score", str(clips), "--run", str(run), "--metrics", "psnr_source", "--preference", str(model)])


@torch.no_grad()
def logit(folder, frames) -> float:
    """By transformers' own call of both."""
    from transformers import AutoProcessor, CLIPModel

    asked = AutoProcessor.from_pretrained(folder)(
        text=[TEXT], images=[Image.fromarray(frame.numpy()) for frame in frames], return_tensors="pt", padding=True
    )
    return float(CLIPModel.from_pretrained(folder).eval()(**asked).logits_per_image.mean())


def test_the_score_is_the_models_logit_and_the_gain_is_over_the_source(clips, tmp_path):
    model = write_clip(tmp_path / "likes")
    assert scored(clips, tmp_path / "run", model) == 0
    found = collect(Run(tmp_path / "run"))
    source, mask = scene()
    wanted = logit(model, right(source, mask))
    assert found.of("preference") == {"one": pytest.approx(wanted, rel=1e-4)}  # the other item has no description
    assert found.of("preference_gain") == {"one": pytest.approx(wanted - logit(model, source), abs=1e-4)}
    choice = scoring_job.Choice(str(tmp_path / "run"), ("psnr_source",), preference=str(model))
    loaded = scoring_job.load(pickle.loads(pickle.dumps(choice)))
    assert [metric.name for metric in loaded.metrics] == ["psnr_source", "preference"]
    assert scoring_job.edit_file(loaded, scoring_job.Task("", "one"), tmp_path / "x.mp4")[1]["computed"] == 0


def test_other_weights_score_anew(clips, tmp_path):
    model = write_clip(tmp_path / "likes")
    assert scored(clips, tmp_path / "run", model) == 0
    before = collect(Run(tmp_path / "run")).of("preference")
    from transformers import CLIPModel

    other = CLIPModel.from_pretrained(model)
    torch.nn.init.constant_(other.logit_scale, 1.0)
    other.save_pretrained(model)
    from liveditor_isa.evaluation.metrics.features import load

    load.cache_clear()  # another process in earnest
    assert scored(clips, tmp_path / "run", model) == 0
    assert collect(Run(tmp_path / "run")).of("preference") != before


def test_what_is_no_model_with_its_processor_is_left_out_in_one_sentence(clips, tmp_path, capsys):
    for name, words in (
        (write_clip(tmp_path / "bare", processor=False), "has no preprocessor_config.json"),
        ("nobody/likes", "is no folder"),
    ):
        assert scored(clips, tmp_path / f"run{len(words)}", name) == 0
        assert f"preference is left out: {name}" in (said := capsys.readouterr().out) and words in said
