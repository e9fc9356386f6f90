"""Masked edits on a real server: the mp4 has the source's size, its picture outside of the mask, its rate and its sound."""

import av
import numpy as np
import pytest
from examples import changed, fails_with, video_file

BOX = {"x": 500, "y": 200, "width": 400, "height": 304}


def pictures(path, count: int) -> np.ndarray:
    """[T, H, W, 3] of bytes. The sample video has no tags, and HD without tags is BT.709."""
    with av.open(str(path)) as container:
        decoded = [frame for _, frame in zip(range(count), container.decode(video=0))]
        return np.stack([frame.reformat(format="rgb24", src_colorspace="ITU709").to_ndarray() for frame in decoded])


def decibels(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


def with_mask(prompt: dict, decode: str) -> dict:
    """The prompt with BOX as a mask, by core's nodes."""
    size = {"width": BOX["width"], "height": BOX["height"]}
    at = {"destination": ["all", 0], "source": ["part", 0], "x": BOX["x"], "y": BOX["y"], "operation": "add"}
    prompt |= {
        "all": {"class_type": "SolidMask", "inputs": {"value": 0.0, "width": 1280, "height": 720}},
        "part": {"class_type": "SolidMask", "inputs": {"value": 1.0, **size}},
        "mask": {"class_type": "MaskComposite", "inputs": at},
    }
    prompt[decode]["inputs"]["mask"] = ["mask", 0]
    return prompt


@pytest.mark.parametrize("by", ["mask", "box"])
def test_outside_of_the_region_the_video_is_the_source(server, workflow, sample_video, by):
    """The stand-in's edit is noise, far from its source everywhere."""
    decode = str(workflow.find("LIVEditorDecodeVideo")["id"])
    prompt = workflow.prompt(changed(LIVEditorDecodeVideo={"feather": 8, "crf": 10}))
    if by == "mask":
        prompt = with_mask(prompt, decode)
    else:
        prompt["box"] = {"class_type": "PrimitiveBoundingBox", "inputs": dict(BOX)}
        prompt[decode]["inputs"]["box"] = ["box", 0]
    run = server.run(prompt)
    assert run.error is None, run.error
    path = video_file(server, run)
    with av.open(str(path)) as container:
        video, sound = container.streams.video[0], container.streams.audio[0]
        assert (video.width, video.height, video.frames, video.average_rate) == (1280, 720, 9, 25)
        assert abs(float(sound.duration * sound.time_base) - 9 / 25) < 0.03
    made, source = pictures(path, 9), pictures(sample_video, 9)
    inside = np.zeros((720, 1280), bool)
    inside[BOX["y"] : BOX["y"] + BOX["height"], BOX["x"] : BOX["x"] + BOX["width"]] = True
    # Blocks of the encoder hold pixels of both sides.
    near = np.zeros_like(inside)
    near[BOX["y"] - 16 : BOX["y"] + BOX["height"] + 16, BOX["x"] - 16 : BOX["x"] + BOX["width"] + 16] = True
    assert decibels(made[:, ~near], source[:, ~near]) > 40
    assert decibels(made[:, inside], source[:, inside]) < 20


def test_an_odd_sized_source_comes_back_without_its_last_row_and_column(server, workflow, tmp_path):
    path = tmp_path / "odd_masked.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 161, 91, "yuv444p"
        for value in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((91, 161, 3), 40 * value, np.uint8), "rgb24")))
        container.mux(stream.encode())
    server.add_input(path)
    settings = {"whole_frame": True, "match_colors": True}
    run = server.run(workflow.prompt(changed(LoadVideo={"file": path.name}, LIVEditorDecodeVideo=settings)))
    assert run.error is None, run.error
    with av.open(str(video_file(server, run))) as container:
        video = container.streams.video[0]
        assert (video.width, video.height, video.frames, video.average_rate) == (160, 90, 5, 24)


@pytest.mark.parametrize("asked", [{"whole_frame": True}, {"match_colors": True}, "mask"])
def test_without_a_source_there_is_nothing_to_put_back_into(server, workflow, asked):
    decode = str(workflow.find("LIVEditorDecodeVideo")["id"])
    prompt = workflow.prompt(changed())
    prompt["latent"] = {
        "class_type": "EmptyHunyuanLatentVideo", "inputs": {"width": 64, "height": 48, "length": 5, "batch_size": 1},
    }  # fmt: skip
    prompt[decode]["inputs"] |= {"samples": ["latent", 0], **({} if asked == "mask" else asked)}
    prompt = {
        node: prompt[node] for node in prompt if prompt[node]["class_type"] in ("LIVEditorLoad", "LIVEditorDecodeVideo")
    } | {"latent": prompt["latent"]}
    if asked == "mask":
        prompt = with_mask(prompt, decode)
    fails_with(server, prompt, "need the source video", "comes from In-Context References")


def test_an_empty_mask_is_refused_before_anything_is_written(server, workflow):
    decode = str(workflow.find("LIVEditorDecodeVideo")["id"])
    prompt = workflow.prompt(changed())
    prompt["mask"] = {"class_type": "SolidMask", "inputs": {"value": 0.0, "width": 64, "height": 64}}
    prompt[decode]["inputs"]["mask"] = ["mask", 0]
    fails_with(server, prompt, "The mask is empty", "Paint the mask white")


def test_a_mask_of_another_shape_is_stretched_and_says_so(server, workflow):
    decode = str(workflow.find("LIVEditorDecodeVideo")["id"])
    prompt = workflow.prompt(changed())
    prompt["mask"] = {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 64, "height": 64}}
    prompt[decode]["inputs"]["mask"] = ["mask", 0]
    run = server.run(prompt)
    assert run.error is None, run.error
    assert run.texts[decode] == ["The mask, 64×64, was stretched over the source's frame, 1280×720."]


def test_a_workflow_saved_before_there_were_masks_still_runs(server, workflow):
    decode = str(workflow.find("LIVEditorDecodeVideo")["id"])
    prompt = workflow.prompt(changed())
    for name in ("whole_frame", "feather", "match_colors"):
        del prompt[decode]["inputs"][name]
    run = server.run(prompt)
    assert run.error is None, run.error
    with av.open(str(video_file(server, run))) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (160, 96)
