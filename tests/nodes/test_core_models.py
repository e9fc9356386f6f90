"""Core's in-context models on a real ComfyUI server: core loads them, core's nodes give them context, *Attach ISA* acts."""

import base64
import http.client
import time
from io import BytesIO
from math import ceil, prod
from types import SimpleNamespace
from urllib.parse import urlencode, urlsplit

import pytest
import torch
from examples import SMALL
from in_context import relative_error
from liveditor_isa.runtime.heatmap import EVERY_BLOCK, MEAN, THUMBNAIL
from PIL import Image
from routes_client import ask
from safetensors.torch import load_file
from served_models import MODELS, node

ATTACH = {
    "enabled": True, "keep_ratio": 1.0, "routing": "ratio", "routing.dense_query_ratio": 1.0, "exact_ratio": 1.0,
    "sharpness": "variance", "context_tail": "drop", "start_percent": 0.0, "end_percent": 1.0, "dense_blocks": "", "min_tokens": 0,
    "backend": "torch",
}  # fmt: skip
SPARSE = {"keep_ratio": 0.3, "routing.dense_query_ratio": 0.3, "exact_ratio": 0.2}


def sampled(server, model, steps: int = 0, **settings) -> SimpleNamespace:
    """A run: its latents (video and sound, or the only one), what Attach ISA says, its workflow's id; without the node where
    there are no settings."""
    loader = {"text_encoder": model.encoder, "weight_dtype": "default", "bin_checkpoint": "load directly"}
    id = f"core model {time.time_ns()}"
    prompt = model.nodes | {
        "unet": node("UNETLoader", unet_name=model.file, weight_dtype="default"),
        "load": node("LIVEditorLoad", **SMALL["LIVEditorLoad"] | loader),
        "text": node("CLIPTextEncode", text="a dancing man", clip=["load", 1]),
        "isa": node("LIVEditorAttachISA", model=[model.patched, 0], **ATTACH | settings),
        "sampler": node(
            "KSampler", model=["isa" if settings else model.patched, 0], seed=5, steps=steps or model.steps, cfg=1.0,
            sampler_name="euler", scheduler="simple", positive=model.positive, negative=model.negative, latent_image=model.latent,
            denoise=1.0,
        ),
    }  # fmt: skip
    if not settings:
        del prompt["isa"]
    latents = [["sampler", 0]]
    if model.with_sound:
        prompt["parts"] = node("LTXVSeparateAVLatent", av_latent=["sampler", 0])
        latents = [["parts", 0], ["parts", 1]]
    saves = {f"save {number}": node("SaveLatent", samples=latent, filename_prefix=id) for number, latent in enumerate(latents)}
    run = server.run(prompt | saves, {"id": id})
    assert run.error is None and "sampler" in run.executed, run.error
    files = [run.outputs[name]["latents"][0] for name in saves]
    found = [load_file(server.base / "output" / each["subfolder"] / each["filename"])["latent_tensor"] for each in files]
    return SimpleNamespace(latents=found, told=run.texts.get("isa", [""])[-1], workflow=id)


def error(run, reference) -> float:
    return relative_error(*(torch.cat([latent.flatten() for latent in each.latents]) for each in (run, reference)))


@pytest.fixture(scope="module", params=MODELS)
def model(request, server, server_models):
    found, folder = MODELS[request.param](), server_models / "diffusion_models"
    before = {*folder.iterdir()}
    found.save(server_models, server.base / "input")
    yield found
    for file in {*folder.iterdir()} - before:  # one has 760 MB
        file.unlink()


@pytest.fixture(scope="module")
def plain(server, model):
    return sampled(server, model)


@pytest.fixture(scope="module")
def sparse(server, model):
    """With the heat maps of every block."""
    ask(server, "detail", {"client": server.client, "maps": EVERY_BLOCK})
    run = sampled(server, model, **SPARSE)
    ask(server, "detail", {"client": server.client, "maps": THUMBNAIL})
    return run


def test_ratios_of_one_are_full_attention(server, model, plain):
    full = sampled(server, model, keep_ratio=1.0)
    assert full.told.startswith(f"ISA: {model.steps * model.calls} attention calls at 100.0% density"), full.told
    assert error(full, plain) < 1e-5


def test_fewer_blocks_are_another_edit(model, plain, sparse):
    assert sparse.told.startswith(f"ISA: {model.steps * model.calls} attention calls at "), sparse.told
    assert "100.0% density" not in sparse.told and 1e-4 < error(sparse, plain) < 0.5


def test_switched_off_or_gone_nothing_is_left(server, model, plain, sparse):
    for run in (sampled(server, model, enabled=False), sampled(server, model)):
        assert all(map(torch.equal, run.latents, plain.latents))


def events(server, run) -> dict[str, dict]:
    """What the server told the page of a run, the last event of each type."""
    told = ask(server, "events", {"workflow": run.workflow, "client": server.client})[1]["events"]
    return {event["type"]: event for event in told}


def test_the_layout_is_the_running_models(server, model, sparse):
    step = events(server, sparse)["step"]
    assert (step["tokens"], step.get("exact", 0)) == ([prod(grid) for grid in model.grids], model.exact)


def test_heat_maps_lie_over_the_right_frames(server, model, sparse):
    run = {"execution": events(server, sparse)["started"]["execution"], "node": "isa"}
    wanted = [[at, block] for at in range(model.steps) for block in (MEAN, *range(model.calls))]
    # They are packed in a thread of their own.
    end = time.monotonic() + 60
    while (listed := ask(server, "maps", run)[1]).get("found") != wanted and time.monotonic() < end:
        time.sleep(0.1)
    assert listed["found"] == wanted
    assert [tuple(grid) for grid in listed["grids"]] == model.grids
    target, *contexts = (ceil(prod(grid) / 64) for grid in model.grids)
    for at, block in listed["found"]:
        kept = base64.b64decode(ask(server, "map", {**run, "at": at, "block": block})[1]["kept"])
        assert len(kept) == target + sum(contexts) and not any(kept[:target]) and any(kept[target:])
    assert [sheet(server, {**run, "part": part}) for part in range(len(model.grids))] == model.pictures


def sheet(server, asked: dict) -> tuple[int, int] | None:
    """Width and height of a part's frames, in rows; None where there are none."""
    url = urlsplit(server.url)
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=20)
    connection.request("GET", f"/liveditor_isa/frames?{urlencode(asked)}")
    answer = connection.getresponse()
    content = answer.read()
    return Image.open(BytesIO(content)).size if answer.status == 200 else None


@pytest.mark.parametrize("model", ["minimax"], indirect=True)
def test_sound_is_exact(server, model):
    """Its tokens attend in full: where only the last block is sparse, one step gives the same sound and another video."""
    full, sparse = (sampled(server, model, steps=1, dense_blocks=blocks, **SPARSE) for blocks in ("0-1", "0"))
    video, sound = (relative_error(*each) for each in zip(sparse.latents, full.latents))
    assert sparse.told.startswith("ISA: 1 attention calls at ") and video > 1e-4 and sound < 1e-5
