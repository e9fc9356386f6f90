"""For ComfyUI's server in tests, as a custom node pack: stops it, or lets its memory run out, at a place of the test's choice.

POST /faults {"where", "what", "after"} arms one fault: after so many passes through `where` the next one is held until
there is a file "go", or raises what torch raises when memory is short. It says "held" by a file as well.
"""

import functools
import time

import comfy.ldm.wan.model
import comfy.ldm.wan.vae
import comfy.model_base
import comfy.utils
import folder_paths
import torch
from aiohttp import web
from server import PromptServer

PLACES = {
    "progress": (comfy.utils.ProgressBar, "update_absolute"),
    "encoding": (comfy.ldm.wan.vae.Encoder3d, "forward"),
    "sampling": (comfy.model_base.BaseModel, "apply_model"),
    "inside the model": (comfy.ldm.wan.model.WanT2VCrossAttention, "forward"),
    "decoding": (comfy.ldm.wan.vae.Decoder3d, "forward"),
}
ARMED: dict[str, list] = {}


def held():
    folder = folder_paths.get_temp_directory()
    with open(f"{folder}/../held", "w"):
        pass
    for _ in range(6000):
        time.sleep(0.01)  # between two looks for the file, a minute of them
        try:
            open(f"{folder}/../go").close()
            return
        except FileNotFoundError:
            pass


def out_of_memory():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB (simulated).")


def disturb(where: str):
    owner, name = PLACES[where]
    original = getattr(owner, name)

    @functools.wraps(original)
    def disturbed(*args, **kwargs):
        if where in ARMED:
            ARMED[where][1] -= 1
            if ARMED[where][1] < 0:
                {"hold": held, "out of memory": out_of_memory}[ARMED.pop(where)[0]]()
        return original(*args, **kwargs)

    setattr(owner, name, disturbed)


for place in PLACES:
    disturb(place)


@PromptServer.instance.routes.post("/faults")
async def arm(request):
    body = await request.json()
    ARMED[body["where"]] = [body["what"], body["after"]]
    return web.json_response({})


NODE_CLASS_MAPPINGS = {}
