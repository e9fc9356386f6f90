"""The example workflows on a real ComfyUI server: what runs, what is cached, what comes out, what bad input is told."""

import copy
import json
import shutil
import time

import av
import numpy as np
import pytest
import torch
from comfy_headless import PromptRefused
from examples import EXAMPLES, SMALL, changed, fails_with, video_file
from make_tiny_model import ENCODER, PLAIN_WAN, VAE, diffusion_weights
from PIL import Image
from safetensors.torch import load_file, save_file
from workflow_api import BYPASSED, Workflow


def types(prompt, nodes) -> set[str]:
    return {prompt[node]["class_type"] for node in nodes}


def latent_of(server, prompt, name: str) -> torch.Tensor:
    """Run `prompt` up to its sampler and read the latent back exactly."""
    sampler = next(node for node, entry in prompt.items() if entry["class_type"] == "KSampler")
    prompt = {node: entry for node, entry in prompt.items() if entry["class_type"] != "LIVEditorDecodeVideo"}
    prompt["save"] = {"class_type": "SaveLatent", "inputs": {"samples": [sampler, 0], "filename_prefix": name}}
    run = server.run(prompt)
    assert run.error is None, run.error
    entry = run.outputs["save"]["latents"][0]
    return load_file(server.base / "output" / entry["subfolder"] / entry["filename"])["latent_tensor"]


# The main job


def test_example_workflow_gives_the_edited_video(server, workflow, saved):
    # The server may have had SMALL of another file's test, and would then run nothing.
    prompt = workflow.prompt(changed(KSampler={"seed": time.time_ns() % 2**32}))
    seen = []
    run = server.run(prompt, saved, lambda node, value, maximum: seen.append((prompt[node]["class_type"], value, maximum)))
    assert run.error is None, run.error
    with av.open(str(video_file(server, run))) as container:
        video, sound = container.streams.video[0], container.streams.audio[0]
        assert (video.width, video.height, video.frames, video.average_rate) == (160, 96, 9, 25)
        assert video.codec_context.name == "h264" and sound.codec_context.name == "aac"
        assert abs(float(sound.duration * sound.time_base) - 9 / 25) < 0.03
        assert json.loads(container.metadata["workflow"]) == saved
        carried = json.loads(container.metadata["prompt"])
        assert {node: entry["inputs"] for node, entry in carried.items()} == {n: e["inputs"] for n, e in prompt.items()}
    assert ("LIVEditorDecodeVideo", 9, 9) in seen
    told = run.texts[str(workflow.find("LIVEditorAttachISA")["id"])][-1]
    assert told.startswith("ISA: 8 attention calls") and "on torch (" in told


@pytest.mark.parametrize(
    "name",
    [
        "4 LIVEditor-14B in less memory",
        "5 Edit a part of the picture",
        "6 With a reference image",
        "7 A long video",
        "8 ISA beside full attention",
    ],
)
def test_the_other_examples_run(server, info, name, tmp_path):
    """Bernini's is below, LIVEditor-tiny's in test_included.py."""
    reference = tmp_path / "reference.png"
    Image.new("RGB", (96, 64), "red").save(reference)
    saved = json.loads((EXAMPLES / f"{name}.json").read_text(encoding="utf-8"))
    small = changed(LoadImage={"image": server.add_input(reference)})
    changes = {node.get("title") or node["type"]: small[node["type"]] for node in saved["nodes"] if node["type"] in small}
    prompt = Workflow(saved, info).prompt(changes)
    run = server.run(prompt, saved)
    assert run.error is None, run.error
    videos = [output["images"][0]["filename"] for output in run.outputs.values() if "images" in output]
    assert len(videos) == sum(node["type"] == "LIVEditorDecodeVideo" for node in saved["nodes"])


@pytest.fixture
def folder_of_clips(server):
    """The template's, empty: the page's tests leave a clip there."""
    folder = server.base / "input/liveditor_clips"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def test_a_folder_of_clips_is_edited(server, info, folder_of_clips):
    """One edit of each clip, in the order of their names, each with its own length."""
    for name, frames in (("first.mp4", 5), ("second.mp4", 9)):
        with av.open(str(folder_of_clips / name), "w") as container:
            stream = container.add_stream("libx264", rate=16)
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
            for value in range(frames):
                frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), 20 * value, np.uint8))
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    saved = json.loads((EXAMPLES / "10 A folder of clips.json").read_text(encoding="utf-8"))
    small = {kind: values for kind, values in SMALL.items() if kind != "LoadVideo"}
    changes = {node.get("title") or node["type"]: small[node["type"]] for node in saved["nodes"] if node["type"] in small}
    run = server.run(Workflow(saved, info).prompt(changes), saved)
    assert run.error is None, run.error
    [videos] = [output["liveditor_video"] for output in run.outputs.values() if "liveditor_video" in output]
    assert [(video["source"]["filename"], video["frames"]) for video in videos] == [("first.mp4", 5), ("second.mp4", 9)]
    assert len({video["filename"] for video in videos}) == 2


def test_bernini_workflow_runs_with_isa_on_both_models(server, info):
    saved = json.loads((EXAMPLES / "9 Bernini with ISA.json").read_text(encoding="utf-8"))
    workflow = Workflow(saved, info)
    wan = {"unet_name": PLAIN_WAN.split("/")[1]}
    # Both stand-ins are one file here; equal nodes would be one to core's cache.
    high, low = {"min_tokens": 0}, {"min_tokens": 0, "keep_ratio": 0.25}
    changes = {
        "Bernini, high noise": wan, "Bernini, low noise": wan,
        "Attach ISA, high noise": high, "Attach ISA, low noise": low,
        "High noise: steps 0 to 20": {"steps": 4, "end_at_step": 2}, "Low noise: steps 20 to 40": {"steps": 4, "start_at_step": 2},
        "LIVEditorInContextReferences": SMALL["LIVEditorInContextReferences"], "LoadVideo": SMALL["LoadVideo"],
    }  # fmt: skip
    prompt = workflow.prompt(changes)
    # Core's loaders know UMT5-XXL only; the stand-in's small encoder and its VAE come from our loader.
    encoder, vae = (str(workflow.find(title)["id"]) for title in ("Text encoder", "VAE"))
    prompt["load"] = {"class_type": "LIVEditorLoad", "inputs": workflow_inputs(info, **SMALL["LIVEditorLoad"])}
    prompt = {node: entry for node, entry in prompt.items() if node not in (encoder, vae)}
    swaps = {encoder: ["load", 1], vae: ["load", 2]}
    for entry in prompt.values():
        for name, value in entry["inputs"].items():
            if isinstance(value, list) and value[0] in swaps:
                entry["inputs"][name] = swaps[value[0]]
    run = server.run(prompt, saved)
    assert run.error is None, run.error
    for title in ("Attach ISA, high noise", "Attach ISA, low noise"):
        assert run.texts[str(workflow.find(title)["id"])][-1].startswith("ISA: 8 attention calls")
    with av.open(str(video_file(server, run))) as container:
        assert container.streams.video[0].frames == 9


def workflow_inputs(info, **values) -> dict:
    """Defaults of Load LIVEditor, changed."""
    required = info["LIVEditorLoad"]["input"]["required"]
    return {name: options[1].get("default") for name, options in required.items()} | values


def test_moving_a_slider_runs_neither_loaders_nor_encoders(server, workflow):
    server.run(workflow.prompt(SMALL))
    prompt = workflow.prompt(changed(LIVEditorAttachISA={"keep_ratio": 0.3}))
    run = server.run(prompt)
    assert types(prompt, run.executed) == {"LIVEditorAttachISA", "ModelSamplingSD3", "KSampler", "LIVEditorDecodeVideo"}
    assert types(prompt, run.cached) >= {"LIVEditorLoad", "LoadVideo", "CLIPTextEncode", "LIVEditorInContextReferences"}


def test_a_bypassed_node_is_bit_identical_to_no_node(server, workflow, sample_video):
    attach, shift = workflow.find("LIVEditorAttachISA"), str(workflow.find("ModelSamplingSD3")["id"])
    sparse = latent_of(server, workflow.prompt(SMALL), "sparse")
    # On the very model that has just run with ISA.
    attach["mode"] = BYPASSED
    without_isa = {kind: values for kind, values in SMALL.items() if kind != "LIVEditorAttachISA"}
    bypassed = latent_of(server, workflow.prompt(without_isa), "bypassed")
    # A copy of the video under another name, so that the result cannot come from the cache.
    copied = server.base / "input/copy.mp4"
    shutil.copy(sample_video, copied)
    attach["mode"] = 0
    absent = workflow.prompt(changed(LoadVideo={"file": copied.name}))
    absent[shift]["inputs"]["model"] = absent.pop(str(attach["id"]))["inputs"]["model"]
    assert torch.equal(bypassed, latent_of(server, absent, "absent"))
    assert not torch.equal(bypassed, sparse)


def test_two_attach_nodes_in_one_graph_do_not_disturb_each_other(server, workflow, sample_video):
    sparse = workflow.prompt(changed(KSampler={"seed": 11}))
    dense = workflow.prompt(
        changed(KSampler={"seed": 11}, LIVEditorAttachISA={"keep_ratio": 1.0, "routing.dense_query_ratio": 1.0})
    )
    alone = [latent_of(server, prompt, "alone") for prompt in (sparse, dense)]
    assert not torch.equal(*alone)

    # One graph: a second Attach ISA, shift and sampler on the same loader; a new file name keeps them from the cache.
    shutil.copy(sample_video, server.base / "input/both.mp4")
    attach, shift, sampler = (str(workflow.find(name)["id"]) for name in ("LIVEditorAttachISA", "ModelSamplingSD3", "KSampler"))
    both = workflow.prompt(changed(KSampler={"seed": 11}, LoadVideo={"file": "both.mp4"}))
    del both[str(workflow.find("LIVEditorDecodeVideo")["id"])]
    both |= {f"{node}b": copy.deepcopy(dense[node]) for node in (attach, shift, sampler)}
    both[f"{shift}b"]["inputs"]["model"], both[f"{sampler}b"]["inputs"]["model"] = [f"{attach}b", 0], [f"{shift}b", 0]
    for node in (sampler, f"{sampler}b"):
        both[f"save{node}"] = {"class_type": "SaveLatent", "inputs": {"samples": [node, 0], "filename_prefix": f"both{node}"}}
    run = server.run(both)
    assert run.error is None, run.error
    for node, expected in ((sampler, alone[0]), (f"{sampler}b", alone[1])):
        entry = run.outputs[f"save{node}"]["latents"][0]
        assert torch.equal(
            load_file(server.base / "output" / entry["subfolder"] / entry["filename"])["latent_tensor"], expected
        )


def test_plain_wan_without_context_passes_through_unharmed(server, workflow):
    """Text to video on plain Wan: the node is there, the result is bit for bit the one without it."""
    load = str(workflow.find("LIVEditorLoad")["id"])
    references, sampler = (str(workflow.find(name)["id"]) for name in ("In-Context References", "KSampler"))
    results = []
    for with_isa in (True, False):
        prompt = workflow.prompt(SMALL)
        prompt["wan"] = {
            "class_type": "UNETLoader",
            "inputs": {"unet_name": PLAIN_WAN.split("/")[1], "weight_dtype": "default"},
        }
        prompt["latent"] = {
            "class_type": "EmptyHunyuanLatentVideo", "inputs": {"width": 160, "height": 96, "length": 9, "batch_size": 1},
        }  # fmt: skip
        texts = prompt[references]["inputs"]
        prompt[sampler]["inputs"] |= {
            "positive": texts["positive"],
            "negative": texts["negative"],
            "latent_image": ["latent", 0],
        }
        for entry in prompt.values():
            if entry["inputs"].get("model") == [load, 0]:
                entry["inputs"]["model"] = ["wan", 0]
        if not with_isa:
            attach, shift = (str(workflow.find(name)["id"]) for name in ("LIVEditorAttachISA", "ModelSamplingSD3"))
            prompt[shift]["inputs"]["model"] = ["wan", 0]
            del prompt[attach]
        results.append(latent_of(server, prompt, "wan"))
    assert torch.equal(*results)


def test_references_become_context(server, workflow):
    """An image connected to the autogrow input changes the edit and is counted in the layout."""
    plain = latent_of(server, workflow.prompt(SMALL), "plain")
    prompt = workflow.prompt(SMALL)
    prompt["image"] = {"class_type": "EmptyImage", "inputs": {"width": 100, "height": 50, "batch_size": 1, "color": 0xFF0000}}
    prompt[str(workflow.find("In-Context References")["id"])]["inputs"]["references.reference_0"] = ["image", 0]
    assert not torch.equal(latent_of(server, prompt, "referenced"), plain)


def test_encoding_shows_its_progress(server, workflow):
    """One bar over the frames of the video and of its references; 6 frames are encoded as 9."""
    inputs = {**SMALL["LIVEditorInContextReferences"], "length": 6, "start_frame": 1}  # not cached by other tests
    prompt = workflow.prompt(changed(LIVEditorInContextReferences=inputs))
    prompt["image"] = {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 2, "color": 0xFF00}}
    references = str(workflow.find("In-Context References")["id"])
    prompt[references]["inputs"]["references.reference_0"] = ["image", 0]
    seen = []
    run = server.run(prompt, on_progress=lambda node, value, most: seen.append((value, most)) if node == references else None)
    assert run.error is None, run.error
    assert seen == sorted(seen) and {most for _, most in seen} == {8}
    assert seen[0][0] == 1 and seen[-1][0] == 8, "from the first frame on, and not at the end alone"


@pytest.mark.parametrize(
    "fps, length, frames", [(0.0, 6, 6), (10.0, 0, 53), (0.0, 1, 1)], ids=["not 4n+1", "all frames at 10 fps", "one frame"]
)
def test_exact_frame_count_and_rate(server, workflow, fps, length, frames):
    size = {"size.width": 64, "size.height": 48, "fps": fps, "length": length}
    run = server.run(workflow.prompt(changed(LIVEditorInContextReferences=size, KSampler={"steps": 1})))
    assert run.error is None, run.error
    with av.open(str(video_file(server, run))) as container:
        video = container.streams.video[0]
        assert (video.frames, float(video.average_rate)) == (frames, fps or 25.0)


def test_a_silent_odd_sized_video_is_edited(server, workflow, tmp_path):
    path = tmp_path / "odd.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 161, 91, "yuv444p"
        for value in range(5):
            frame = av.VideoFrame.from_ndarray(np.full((91, 161, 3), 40 * value, np.uint8), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    server.add_input(path)
    run = server.run(workflow.prompt(changed(LoadVideo={"file": "odd.mp4"})))
    assert run.error is None, run.error
    with av.open(str(video_file(server, run))) as container:
        video = container.streams.video[0]
        assert (video.width, video.height, video.frames, video.average_rate) == (160, 96, 5, 24)
        assert not container.streams.audio


@pytest.mark.parametrize("fps, sound", [(25.01, True), (30.0, False)])
def test_sound_ends_with_the_picture_and_fits_its_speed(server, workflow, fps, sound):
    """A latent cut behind the sampler; an fps that means the source's own keeps the sound, another drops it and says so."""
    decode, sampler = (str(workflow.find(name)["id"]) for name in ("LIVEditorDecodeVideo", "KSampler"))
    prompt = workflow.prompt(changed(LIVEditorDecodeVideo={"fps": fps}))
    prompt["cut"] = {"class_type": "LatentCut", "inputs": {"samples": [sampler, 0], "dim": "t", "index": 0, "amount": 2}}
    prompt[decode]["inputs"]["samples"] = ["cut", 0]
    run = server.run(prompt)
    assert run.error is None, run.error
    with av.open(str(video_file(server, run))) as container:
        video = container.streams.video[0]
        assert (video.frames, float(video.average_rate)) == (5, 25.0 if sound else 30.0)
        assert bool(container.streams.audio) is sound
        if sound:
            assert abs(float(container.streams.audio[0].duration * container.streams.audio[0].time_base) - 5 / 25) < 0.03
    assert ("The sound is left out" in str(run.texts)) is not sound


@pytest.mark.long
def test_metadata_can_be_disabled(server_models, sample_video, workflow, tmp_path_factory):
    from comfy_headless import ComfyServer

    base = tmp_path_factory.mktemp("private")
    with ComfyServer(base, server_models, "--disable-metadata") as private:
        private.add_input(sample_video)
        run = private.run(workflow.prompt(changed(KSampler={"steps": 1})), {"nodes": []})
        assert run.error is None, run.error
        with av.open(str(video_file(private, run))) as container:
            assert not {"prompt", "workflow"} & set(container.metadata)


# Bad input


@pytest.fixture(scope="session")
def bad_models(server_models):
    """Files that look like LIVEditor's parts and are not."""
    folder = server_models / "diffusion_models"
    weights = diffusion_weights()
    config = {"config": json.dumps({"transformer": {"text_dim": 64}})}
    whole = folder / "whole.safetensors"
    save_file(weights, whole, config)
    (folder / "truncated.safetensors").write_bytes(whole.read_bytes()[:-1000])
    (folder / "cut.bin").write_bytes((server_models / "diffusion_models/liveditor_tiny.bin").read_bytes()[:-1000])
    incomplete = {name: weight for name, weight in weights.items() if name != "blocks.1.ffn.2.bias"}
    save_file({**incomplete, "blocks.1.adapter.weight": torch.ones(1)}, folder / "incomplete.safetensors", config)
    nan = {**weights, "blocks.3.self_attn.k.weight": weights["blocks.3.self_attn.k.weight"] * float("nan")}
    save_file(nan, folder / "nan.safetensors", config)
    torch.save(nan, folder / "not_a_number.bin")
    shutil.copy(server_models / ENCODER, server_models / "vae/encoder.safetensors")
    shutil.copy(server_models / VAE, server_models / "text_encoders/vae.safetensors")


@pytest.mark.parametrize(
    "file, words",
    [
        (
            "wan_tiny.safetensors",
            ["plain Wan checkpoint", "source_video_embedding_more_memory.weight", "Pick liveditor_ckpt.bin"],
        ),
        ("truncated.safetensors", ["truncated.safetensors is truncated", "Download it again"]),
        ("cut.bin", ["cut.bin is truncated", "download it again"]),
        ("incomplete.safetensors", ["lacks blocks.1.ffn.2.bias", "has unknown blocks.1.adapter.weight"]),
        ("not_a_number.bin", ["blocks.3.self_attn.k.weight holds NaN", "download it again"]),
        ("nan.safetensors", ["blocks.3.self_attn.k.weight holds NaN", "Download or convert it again"]),
        (
            "absent.safetensors",
            ["'absent.safetensors' is not in models/diffusion_models", "Put the LIVEditor checkpoint there"],
        ),
    ],
)
def test_wrong_diffusion_models(server, workflow, bad_models, file, words):
    fails_with(server, workflow.prompt(changed(LIVEditorLoad={"diffusion_model": file})), *words)
    assert not list((server.base / "models").rglob("*.partial"))


@pytest.mark.parametrize(
    "part, file, words",
    [
        ("text_encoder", "umt5_absent.safetensors", ["text_encoder", "not in models/text_encoders", "umt5_xxl_fp8"]),
        ("text_encoder", "vae.safetensors", ["vae.safetensors is not a UMT5-XXL text encoder", "pick umt5_xxl_fp8"]),
        ("vae", "encoder.safetensors", ["encoder.safetensors is not a Wan 2.1 VAE", "pick wan_2.1_vae.safetensors"]),
    ],
)
def test_wrong_encoder_or_vae(server, workflow, bad_models, part, file, words):
    fails_with(server, workflow.prompt(changed(LIVEditorLoad={part: file})), *words)


def test_latent_and_vae_of_different_kinds(server, workflow):
    references, decode = (str(workflow.find(name)["id"]) for name in ("In-Context References", "LIVEditorDecodeVideo"))
    prompt = workflow.prompt(SMALL)
    prompt["pixels"] = {"class_type": "VAELoader", "inputs": {"vae_name": "pixel_space"}}
    prompt[references]["inputs"]["vae"] = ["pixels", 0]
    fails_with(server, prompt, "needs the Wan 2.1 VAE", "connect the VAE of Load LIVEditor")

    prompt = workflow.prompt(SMALL)
    prompt["image"] = {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}}
    prompt[decode]["inputs"]["samples"] = ["image", 0]
    fails_with(server, prompt, "Latent and VAE do not belong together", "Connect the VAE")


@pytest.fixture
def bad_video(server, sample_video, request):
    path = server.base / "input" / f"{request.param}.mp4"
    if request.param == "garbage":
        path.write_bytes(b"no video at all" * 100)
    elif request.param == "cut":
        path.write_bytes(sample_video.read_bytes()[:2000])
    else:
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=48000)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 48000), np.float32), format="flt", layout="mono")
            frame.sample_rate = 48000
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
    yield path.name
    path.unlink()


@pytest.mark.parametrize("bad_video", ["garbage", "cut", "no frames"], indirect=True)
def test_unreadable_videos(server, workflow, bad_video):
    fails_with(
        server, workflow.prompt(changed(LoadVideo={"file": bad_video})), "The video cannot be read", "convert it to an mp4"
    )


def test_an_impossible_schedule(server, workflow):
    schedule = {"start_percent": 0.8, "end_percent": 0.2}
    fails_with(server, workflow.prompt(changed(LIVEditorAttachISA=schedule)), "start_percent must lie below end_percent")
    blocks = {"dense_blocks": "first two"}
    fails_with(server, workflow.prompt(changed(LIVEditorAttachISA=blocks)), 'such as "0-2,-1"', 'cannot read "first two"')


def test_a_backend_that_cannot_run_is_an_error(server, workflow):
    prompt = workflow.prompt(changed(LIVEditorAttachISA={"backend": "triton"}))
    fails_with(server, prompt, "The Triton backend cannot run", "Choose backend 'auto' or 'torch'")


@pytest.mark.parametrize("name, value", [("keep_ratio", 1.5), ("exact_ratio", -0.1), ("routing.dense_query_ratio", 2.0)])
def test_ratios_out_of_range_are_refused_before_anything_runs(server, workflow, name, value):
    with pytest.raises(PromptRefused, match=rf"Value {value} (bigger than max|smaller than min) of .*{name}"):
        server.run(workflow.prompt(changed(LIVEditorAttachISA={name: value})))


def test_a_threshold_that_routes_nothing_is_shown_on_the_node(server, workflow):
    threshold = {"routing": "threshold", "routing.sharpness_threshold": 1.0}
    prompt = workflow.prompt(changed(LIVEditorAttachISA=threshold))
    del prompt[str(workflow.find("LIVEditorAttachISA")["id"])]["inputs"]["routing.dense_query_ratio"]
    run = server.run(prompt)
    assert run.error is None, run.error
    assert "No query block is sharper than the threshold" in run.texts[str(workflow.find("LIVEditorAttachISA")["id"])][-1]


def test_the_server_is_sound_after_all_that(server, workflow):
    run = server.run(workflow.prompt(changed(KSampler={"seed": 99})))
    assert run.error is None, run.error
    log = server.log()
    assert "IMPORT FAILED" not in log and "LIVEditor · ISA could not be loaded" not in log
