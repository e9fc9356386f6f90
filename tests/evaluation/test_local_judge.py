"""A VLM of transformers as the judge: real classes with random weights see the question and all its pictures; what they say is parsed as a
server's answer is."""

import json
import pickle

import pytest
import torch
from evaluated import right, save, scene, write_rows
from fake_judge import GOOD
from liveditor_isa.command import main
from liveditor_isa.errors import UnreachableError
from liveditor_isa.evaluation.judge import local
from liveditor_isa.evaluation.judge.client import JudgeError, ask
from liveditor_isa.evaluation.judge.local import LocalVLM
from liveditor_isa.evaluation.records import Run
from liveditor_isa.evaluation.results import collect
from small_vlm import write_vlm

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_vlm(tmp_path_factory.mktemp("vlms") / "small")


@pytest.fixture
def says(folder, monkeypatch):
    """Makes the model say a text; what it was asked is in the list."""
    model, processor = local._loaded(str(folder), "auto")
    asked = []

    def made(text: str):
        def generate(input_ids, **more):
            asked.append({"input_ids": input_ids, **more})
            words = processor.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
            return torch.cat([input_ids, words], dim=1)

        monkeypatch.setattr(model, "generate", generate)
        return asked

    return made


def test_random_weights_answer_something_that_is_no_score_and_are_asked_once(folder, monkeypatch):
    monkeypatch.setattr(local, "LONGEST", 8)
    judge = LocalVLM(str(folder), "cpu")
    reply = judge.reply(
        [{"role": "system", "content": "You judge."}, {"role": "user", "content": [{"type": "text", "text": "Well?"}]}]
    )
    assert reply.model == judge.model and reply.tokens > 8

    def understood(reply):
        raise ValueError("no score")

    with pytest.raises(JudgeError, match="no score in one attempt"):
        ask(judge, [{"role": "user", "content": "Well?"}], understood)


def test_it_sees_the_question_and_every_picture_and_its_scores_are_kept(folder, says, tmp_path):
    source, mask = scene()
    rows = [{"id": "one", "source": save(tmp_path / "source", source).name, "edit": save(tmp_path / "edit", right(source, mask)).name,
             "instruction": "Make the box blue"}]  # fmt: skip
    clips, run, asked = write_rows(tmp_path / "clips.jsonl", *rows), tmp_path / "run", says(GOOD)
    command = ["evaluate", "score", str(clips), "--run", str(run), "--metrics", "psnr_source", "--judge-folder", str(folder)]
    assert main(command) == 0 and len(asked) == 1
    found = collect(Run(run))
    assert found.of("judge_quality") == {"one": 9} and found.of("judge_preservation") == {"one": 8}
    processor = local._loaded(str(folder), "auto")[1]
    text = processor.decode(asked[0]["input_ids"][0])
    assert "Make the box blue" in text and text.startswith("system: ") and text.endswith("assistant: ")
    assert asked[0]["pixel_values"].shape == (2 * len(source), 3, 32, 32)
    assert main(command) == 0 and len(asked) == 1
    stored = json.loads((run / "scores/one.json").read_text(encoding="utf-8"))["scores"]["judge_pair"]["judge"][0]
    assert stored["asked_model"].startswith("small@") and stored["tokens"] > 100


def test_what_cannot_judge_is_said_once(tmp_path, capsys):
    bare = write_vlm(tmp_path / "bare", template=None)
    with pytest.raises(UnreachableError, match="has no chat template"):
        LocalVLM(str(bare), "cpu").reply([])
    (bare / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(UnreachableError, match="holds no VLM of transformers"):
        LocalVLM(str(bare), "cpu").reply([])
    with pytest.raises(ValueError, match="no folder of a model"):
        LocalVLM(str(tmp_path))
    clips = write_rows(tmp_path / "clips.jsonl", {"source": "x", "instruction": "y"})
    both = ["--judge-folder", str(bare), "--judge-url", "http://localhost:1/v1"]
    assert main(["evaluate", "score", str(clips), "--run", str(tmp_path / "run"), *both]) == 2
    assert "There is one judge" in capsys.readouterr().err


def test_other_weights_are_another_judge_and_workers_take_it_along(folder, tmp_path):
    one, other = LocalVLM(str(folder)), LocalVLM(str(write_vlm(tmp_path / "small")))
    assert one.model != other.model and pickle.loads(pickle.dumps(one)) == one
