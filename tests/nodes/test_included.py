"""LIVEditor-tiny as it comes with the pack: the files are the ones that the card lists, and it edits."""

import hashlib
import json

import av
import folder_paths
import pytest
import torch
from comfy_headless import ROOT
from examples import fails_with, video_file
from liveditor_isa.checkpoint.included import FILES, FOLDER, NAME, check_parts
from liveditor_isa.checkpoint.vocabulary import unknown_words, words
from liveditor_isa.data.procedural.styles import STYLES
from liveditor_isa.nodes.load import LoadLIVEditor
from workflow_api import Workflow

SMALL = {
    "LoadVideo": {"file": "bigbuckbunny.mp4"},
    "LIVEditorInContextReferences": {"size.width": 208, "size.height": 112, "length": 9},
    "KSampler": {"steps": 8},
}


@pytest.fixture
def workflow(info) -> Workflow:
    return Workflow(json.loads((ROOT / "example_workflows/1 First edit, without a GPU.json").read_text(encoding="utf-8")), info)


def test_the_files_are_those_that_the_card_lists():
    listed = dict(reversed(line.split()) for line in (FOLDER / "SHA256SUMS").read_text().splitlines())
    assert set(listed) == set(FILES.values()) == {path.name for path in FOLDER.glob("*.safetensors")}
    assert {name: hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() for name in listed} == listed
    assert sum((FOLDER / name).stat().st_size for name in listed) <= 43 * 2**20
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(name in card for name in listed)


def frames(path, count: int, size: tuple[int, int]) -> torch.Tensor:
    """[T, 3, H, W] in 0..1."""
    with av.open(str(path)) as container:
        decoded = [frame for _, frame in zip(range(count), container.decode(video=0))]
    pictures = [torch.from_numpy(frame.to_ndarray(format="rgb24", width=size[0], height=size[1])) for frame in decoded]
    return torch.stack(pictures).permute(0, 3, 1, 2) / 255


def test_it_edits_a_real_video(server, workflow, sample_video):
    """A style has an exact rule: what comes out is far nearer to it than the video as it was."""
    prompt = workflow.prompt({**SMALL, "3 · What to change": {"text": "Make the video look like sunset"}})
    run = server.run(prompt)
    assert run.error is None, run.error
    edited, source = frames(video_file(server, run), 9, (208, 112)), frames(sample_video, 9, (208, 112))
    wanted = STYLES["sunset"](source)
    error, undone = ((picture - wanted).square().mean() for picture in (edited, source))
    assert error < 0.25 * undone
    assert run.texts == {node: lines for node, lines in run.texts.items() if "taught" not in lines[-1]}


def test_words_it_does_not_know_are_shown_on_the_instruction(server, workflow):
    prompt = workflow.prompt(
        {**SMALL, "3 · What to change": {"text": "Turn the Rabbit blue, s'il vous plaît"}, "KSampler": {"steps": 1}}
    )
    run = server.run(prompt)
    asked = next(node for node, entry in prompt.items() if "Rabbit" in str(entry["inputs"].get("text")))
    assert run.error is None and "never taught: rabbit, s'il, vous, plaît" in run.texts[asked][-1]
    assert "umt5_tiny.safetensors was never taught: rabbit" in server.log()


@pytest.mark.parametrize("other", ["vae", "text_encoder", "diffusion_model"])
def test_its_parts_work_with_each_other_only(server, workflow, other):
    file = {"vae": "wan_tiny_vae.safetensors", "text_encoder": "umt5_tiny.safetensors", "diffusion_model": "liveditor_tiny.bin"}
    prompt = workflow.prompt({**SMALL, "LIVEditorLoad": {other: file[other]}})
    fails_with(server, prompt, f"not with {other} '{file[other]}'", f"pick '{NAME}' for all three inputs")


def test_without_it_nothing_is_checked():
    check_parts({part: "other.safetensors" for part in FILES})
    check_parts({part: None for part in FILES})


@pytest.mark.parametrize(
    "models, expected",
    [
        ({}, (NAME, NAME, NAME)),
        ({"vae": ["wan_2.1_vae.safetensors"], "text_encoders": ["umt5_xxl.safetensors"]}, (NAME, NAME, NAME)),
        (
            {
                "diffusion_models": ["flux.safetensors", "LIVEditor_ckpt.bin"],
                "vae": ["ae.safetensors", "wan_2.1_vae.safetensors"],
            },
            ("LIVEditor_ckpt.bin", NAME, "wan_2.1_vae.safetensors"),
        ),
    ],
)
def test_it_is_the_default_where_liveditor_is_not(monkeypatch, models, expected):
    monkeypatch.setattr(folder_paths, "get_filename_list", lambda folder: models.get(folder, []))
    inputs = {entry.id: entry for entry in LoadLIVEditor.define_schema().inputs}
    assert tuple(inputs[part].default for part in FILES) == expected
    assert all(inputs[part].options[0] == NAME for part in FILES)


def test_words():
    assert words("Make the see-through Ring RED, don’t stop: 2 times!") == [
        "make", "the", "see-through", "ring", "red", "don’t", "stop", "times",
    ]  # fmt: skip
    assert unknown_words("red Rabbit, red fox, rabbit", frozenset({"red"})) == ["rabbit", "fox"]
    assert unknown_words("", frozenset()) == []
