"""SCAIL-2, whose context lies on both sides of its target, on a real ComfyUI server: loaded, attached, sampled."""

import time

import pytest
from core_models import save_scail2
from examples import SMALL
from in_context import relative_error
from safetensors.torch import load_file

ATTACH = {
    "enabled": True, "keep_ratio": 1.0, "routing": "ratio", "routing.dense_query_ratio": 1.0, "exact_ratio": 1.0,
    "sharpness": "variance", "context_tail": "drop", "start_percent": 0.0, "end_percent": 1.0, "dense_blocks": "", "min_tokens": 0,
    "backend": "torch",
}  # fmt: skip


@pytest.fixture(scope="module")
def scail2(server_models):
    save_scail2(server_models / "diffusion_models/scail2_tiny.safetensors")
    return "scail2_tiny.safetensors"


def sampled(server, model: str, others: dict, **settings):
    """(latent, what Attach ISA says), without the node where there are no settings. others: inputs of the loader of text encoder and VAE."""
    image = {"class_type": "EmptyImage", "inputs": {"width": 128, "height": 64, "batch_size": 1, "color": 0x40A0FF}}
    prompt = {
        "unet": {"class_type": "UNETLoader", "inputs": {"unet_name": model, "weight_dtype": "default"}},
        "load": {"class_type": "LIVEditorLoad", "inputs": others},
        "text": {"class_type": "CLIPTextEncode", "inputs": {"text": "a dancing man", "clip": ["load", 1]}},
        "reference": image,
        "pose": {"class_type": "EmptyImage", "inputs": image["inputs"] | {"batch_size": 9, "color": 0x201000}},
        "scail": {"class_type": "WanSCAILToVideo", "inputs": {
            "positive": ["text", 0], "negative": ["text", 0], "vae": ["load", 2], "width": 128, "height": 64, "length": 9, "batch_size": 1,
            "pose_video": ["pose", 0], "pose_strength": 1.0, "pose_start": 0.0, "pose_end": 1.0, "reference_image": ["reference", 0],
            "video_frame_offset": 0, "previous_frame_count": 5, "replacement_mode": False,
        }},
        "isa": {"class_type": "LIVEditorAttachISA", "inputs": {"model": ["unet", 0], **ATTACH, **settings}},
        "sampler": {"class_type": "KSampler", "inputs": {
            "model": ["isa" if settings else "unet", 0], "seed": 5, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple",
            "positive": ["scail", 0], "negative": ["scail", 1], "latent_image": ["scail", 2], "denoise": 1.0,
        }},
        "save": {"class_type": "SaveLatent", "inputs": {"samples": ["sampler", 0], "filename_prefix": f"scail{time.time_ns()}"}},
    }  # fmt: skip
    if not settings:
        del prompt["isa"]
    run = server.run(prompt)
    assert run.error is None, run.error
    entry = run.outputs["save"]["latents"][0]
    latent = load_file(server.base / "output" / entry["subfolder"] / entry["filename"])["latent_tensor"]
    return latent, run.texts.get("isa", [""])[-1]


def test_scail2_with_isa(server, scail2, workflow):
    loader = workflow.prompt(SMALL)[str(workflow.find("LIVEditorLoad")["id"])]["inputs"]
    plain, _ = sampled(server, scail2, loader)
    full, told = sampled(server, scail2, loader, keep_ratio=1.0)
    assert told.startswith("ISA: 4 attention calls at 100.0% density"), told
    assert relative_error(full, plain) < 1e-4
    sparse, told = sampled(server, scail2, loader, keep_ratio=0.3, **{"routing.dense_query_ratio": 0.3}, exact_ratio=0.2)
    assert told.startswith("ISA: 4 attention calls at ") and 1e-4 < relative_error(sparse, plain) < 0.5
    again, _ = sampled(server, scail2, loader)
    assert relative_error(again, plain) == 0
