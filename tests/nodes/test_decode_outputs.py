"""What Decode Video gives on a real server: frames and sound for other nodes, formats, the source beside the edit, drafts."""

import json
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from comfy_headless import PromptRefused
from examples import changed, fresh, video_file
from liveditor_isa.video.beside import source_beside
from liveditor_isa.video.geometry import crop_box, fit_frames

FRAMES = 9


@pytest.fixture
def decode(workflow) -> str:
    return str(workflow.find("LIVEditorDecodeVideo")["id"])


def pictures(path) -> np.ndarray:
    """[T, H, W, 3] of bytes."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).astype(float)


def grey(frames: np.ndarray) -> np.ndarray:
    """Without the colours, of which a video holds half the detail. The stand-in's edit is noise."""
    return frames @ (0.2126, 0.7152, 0.0722)


def of(server, entry: dict):
    return server.base / entry["type"] / entry["subfolder"] / entry["filename"]


def finished(server, prompt, workflow=None):
    run = server.run(prompt, workflow)
    assert run.error is None, run.error
    return run


def with_nodes_after(prompt: dict, decode: str) -> dict:
    """The prompt with core's savers at IMAGE and AUDIO."""
    return prompt | {
        "frames": {"class_type": "SaveImage", "inputs": {"images": [decode, 1], "filename_prefix": "decoded"}},
        "heard": {"class_type": "SaveAudio", "inputs": {"audio": [decode, 2], "filename_prefix": "decoded"}},
    }


def test_frames_and_sound_go_on_to_other_nodes_also_when_they_are_connected_later(server, workflow, decode):
    prompt = workflow.prompt(fresh())
    # Core's SaveAudio takes two channels.
    prompt["silence"] = {"class_type": "EmptyAudio", "inputs": {"duration": 5.0, "sample_rate": 32_000, "channels": 2}}
    prompt[decode]["inputs"] |= {"crf": 4, "audio": ["silence", 0]}
    first = finished(server, prompt)
    later = finished(server, with_nodes_after(prompt, decode))
    # The sampler's latent is still there.
    assert decode in later.executed and not any(
        "KSampler" in prompt.get(node, {}).get("class_type", "") for node in later.executed
    )
    images = [pictures(of(server, entry))[0] for entry in later.outputs["frames"]["images"]]
    assert len(images) == FRAMES
    for run in (first, later):
        assert np.abs(grey(np.stack(images)) - grey(pictures(video_file(server, run)))).mean() < 4
    with av.open(str(of(server, later.outputs["heard"]["audio"][0]))) as container:
        sound = container.streams.audio[0]
        assert float(sound.duration * sound.time_base) == pytest.approx(FRAMES / 25, abs=0.05)
    again = finished(server, with_nodes_after(prompt, decode))
    assert decode not in again.executed


def test_frames_are_kept_only_where_something_uses_them():
    from comfy_execution.graph import DynamicPrompt
    from liveditor_isa.nodes.decode import _Kept
    from liveditor_isa.nodes.outputs_used import outputs_used

    graph = DynamicPrompt({"1": {"inputs": {"fps": 1, "box": [3, 4]}}, "2": {"inputs": {"a": ["1", 0], "b": ["1", 2]}}})
    graph.add_ephemeral_node("2.1", {"inputs": {"images": ["1", 1]}}, "2", "2")
    graph.add_ephemeral_node("2.2", {"inputs": {"images": ["2.1", 1]}}, "2", "2")
    assert outputs_used(SimpleNamespace(dynprompt=graph, unique_id="1"), 3) == {0, 1, 2}
    del graph.ephemeral_prompt["2.1"]
    assert outputs_used(SimpleNamespace(dynprompt=graph, unique_id="1"), 3) == {0, 2}
    assert outputs_used(SimpleNamespace(dynprompt=graph, unique_id="2.2"), 3) == {0, 1, 2}
    assert outputs_used(SimpleNamespace(dynprompt=None, unique_id="1"), 3) == {0, 1, 2}
    chunks = torch.rand(7, 2, 2, 3).split(3)
    for keep in (False, True):
        kept = _Kept(7, keep)
        assert torch.equal(torch.cat([*kept.passing(chunks)]), torch.cat(chunks)) and torch.equal(kept.first, chunks[0][:1])
        assert torch.equal(kept.images, torch.cat(chunks)) if keep else kept.images is None


def test_a_webm_has_everything_that_an_mp4_has(server, workflow, saved, decode):
    run = finished(server, workflow.prompt(changed(LIVEditorDecodeVideo={"format": "webm (VP9)"})), saved)
    output = run.outputs[decode]
    assert output["animated"] == [True] and output["liveditor_video"][0]["comparable"]
    path = video_file(server, run)
    assert path.suffix == ".webm" and output["liveditor_video"][0]["filename"] == path.name
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "vp9" and container.streams.audio[0].channels == 6
        assert json.loads({key.lower(): value for key, value in container.metadata.items()}["workflow"]) == saved
    assert len(pictures(path)) == FRAMES


def test_a_png_sequence_is_shown_by_its_first_picture_and_goes_on_as_a_video(server, workflow, saved, decode):
    prompt = workflow.prompt(changed(LIVEditorDecodeVideo={"format": "png sequence"}))
    alone = finished(server, prompt, saved)
    folder = of(server, alone.outputs[decode]["liveditor_video"][0])
    assert [file.name for file in sorted(folder.iterdir())] == [f"{number:05}.png" for number in range(1, FRAMES + 1)]
    assert of(server, alone.outputs[decode]["images"][0]) == folder / "00001.png"
    assert alone.texts[decode] == [f"Saved as video/{folder.name} in the output folder."]
    assert not alone.outputs[decode]["liveditor_video"][0]["comparable"]
    after = {
        "class_type": "SaveVideo",
        "inputs": {"video": [decode, 0], "filename_prefix": "core", "format": "mp4", "codec": "auto"},
    }
    run = finished(server, prompt | {"core": after}, saved)
    with av.open(str(of(server, run.outputs["core"]["images"][0]))) as container:
        assert (container.streams.video[0].frames, container.streams.video[0].average_rate) == (FRAMES, 25)
        assert container.streams.audio


def test_what_browsers_do_not_play_is_shown_as_a_picture(server, workflow, decode):
    run = finished(server, workflow.prompt(changed(LIVEditorDecodeVideo={"format": "mov (ProRes)"})))
    (shown,), (saved,) = run.outputs[decode]["images"], run.outputs[decode]["liveditor_video"]
    assert (shown["type"], saved["type"]) == ("temp", "output") and saved["filename"].endswith(".mov")
    assert np.abs(pictures(of(server, shown))[0] - pictures(of(server, saved))[0]).mean() < 8
    run = finished(server, workflow.prompt(changed(LIVEditorDecodeVideo={"format": "gif"})))
    assert run.outputs[decode]["images"][0]["filename"].endswith(".gif") and "animated" not in run.outputs[decode]


def test_a_draft_goes_to_the_temporary_folder(server, workflow, decode):
    before = sorted((server.base / "output").rglob("*"))
    run = finished(server, workflow.prompt(changed(LIVEditorDecodeVideo={"draft": True})))
    (shown,) = run.outputs[decode]["images"]
    assert shown["type"] == "temp" and len(pictures(of(server, shown))) == FRAMES
    assert sorted((server.base / "output").rglob("*")) == before


@pytest.mark.parametrize("settings", [{}, {"whole_frame": True}], ids=["part", "whole frame"])
def test_the_source_is_shown_beside_the_edit(server, workflow, decode, sample_video, settings):
    settings = {"beside_source": True, "crf": 4, **settings}
    size = {"size": "custom", "size.width": 160, "size.height": 96, "length": 1}
    prompt = workflow.prompt(changed(LIVEditorDecodeVideo=settings, LIVEditorInContextReferences=size))
    prompt = with_nodes_after(prompt, decode)
    run = finished(server, prompt)
    (both,), (edit,) = (pictures(of(server, run.outputs[node]["images"][0])) for node in (decode, "frames"))
    with av.open(str(sample_video)) as container:
        source = torch.from_numpy(next(container.decode(video=0)).to_ndarray(format="rgb24"))[None] / 255
    source = source if "whole_frame" in settings else fit_frames(source, 160, 96)[0]
    height, width = source.shape[1:3]
    assert both.shape == (height, 2 * width, 3) and not run.outputs[decode]["liveditor_video"][0]["comparable"]
    assert np.abs(grey(both[:, :width]) - grey(255 * source[0].numpy())).mean() < 4
    # Only the edit.
    assert edit.shape == (height, width, 3) and np.abs(grey(both[:, width:]) - grey(edit)).mean() < 4


def test_the_source_beside_is_cut_as_the_model_sees_it():
    """Sources wider and taller than the edit, smaller and larger."""
    for width, height in ((64, 48), (40, 90), (201, 77)):
        down, across = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
        source = torch.stack([down, across, (down + across) / 2], -1).expand(2, -1, -1, -1)
        crop = crop_box((width, height), 32, 32)
        for frame, edit in zip(source_beside(torch.zeros(2, 32, 32, 3), source, crop), fit_frames(source, 32, 32)[0]):
            assert frame.shape == (32, 64, 3) and not frame[:, 32:].any()
            assert (frame[:, :32] - edit).abs().max() < 0.02


@pytest.mark.parametrize(
    "sound, given, seconds", [("off", None, None), ("off", 5.0, None), ("source", 5.0, FRAMES / 25), ("source", 0.2, 0.2)]
)
def test_sound_is_kept_left_out_or_replaced(server, workflow, decode, sound, given, seconds):
    """At another rate than the source's, its own sound would be left out."""
    fps = 25 if given is None else 24.999
    prompt = workflow.prompt(changed(LIVEditorDecodeVideo={"sound": sound, "fps": fps}))
    if given:
        silence = {"duration": given, "sample_rate": 32_000, "channels": 1}
        prompt["silence"] = {"class_type": "EmptyAudio", "inputs": silence}
        prompt[decode]["inputs"]["audio"] = ["silence", 0]
    with av.open(str(video_file(server, finished(server, prompt)))) as container:
        if seconds is None:
            assert not container.streams.audio
        else:
            stream = container.streams.audio[0]
            assert (stream.sample_rate, stream.layout.name) == (32_000, "mono")
            assert float(stream.duration * stream.time_base) == pytest.approx(seconds, abs=0.05)


def test_the_source_beside_needs_a_source(server, workflow, decode):
    from examples import fails_with

    prompt = workflow.prompt(changed(LIVEditorDecodeVideo={"beside_source": True}))
    prompt["latent"] = {
        "class_type": "EmptyHunyuanLatentVideo", "inputs": {"width": 64, "height": 48, "length": 5, "batch_size": 1},
    }  # fmt: skip
    prompt[decode]["inputs"]["samples"] = ["latent", 0]
    fails_with(server, prompt, "beside_source need the source video")


@pytest.mark.parametrize(
    "settings, words",
    [({"format": "avi"}, "There is no format 'avi': choose one of mp4"), ({"filename_prefix": "../x"}, "leads out")],
)
def test_what_cannot_be_written_is_refused_before_anything_runs(server, workflow, settings, words):
    with pytest.raises(PromptRefused, match=words):
        server.run(workflow.prompt(changed(LIVEditorDecodeVideo=settings)))


def test_a_name_that_is_too_long_is_cut(server, workflow, decode):
    paths = []
    for seed in (1, 2):
        settings = {"filename_prefix": "long/" + "長" * 100}
        run = finished(server, workflow.prompt(changed(LIVEditorDecodeVideo=settings, KSampler={"seed": seed})))
        paths.append(video_file(server, run))
    assert paths[0] != paths[1] and all(path.is_file() and len(path.name.encode()) <= 255 for path in paths)


def test_a_workflow_saved_before_there_were_formats_still_runs(server, workflow, decode):
    prompt = workflow.prompt(changed())
    for name in ("format", "sound", "beside_source", "draft"):
        prompt[decode]["inputs"].pop(name, None)
    path = video_file(server, finished(server, prompt))
    assert path.suffix == ".mp4" and len(pictures(path)) == FRAMES


def test_a_temporary_folder_that_cannot_be_written_to_is_named_before_anything_runs(monkeypatch):
    import tempfile

    from liveditor_isa.nodes.decode import DecodeVideo

    assert DecodeVideo.validate_inputs("video/edit", "mp4 (H.264)") is True
    monkeypatch.setattr(tempfile, "tempdir", "/proc")
    refused = DecodeVideo.validate_inputs("video/edit", "mp4 (H.264)")
    assert refused.startswith("The temporary folder /proc cannot be written to (") and "TMPDIR" in refused
