"""The page's requests: change a run, estimate a cost, look at runs and their heat maps."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import math
import time

import torch
from aiohttp import web
from PIL import Image
from server import PromptServer

from ..isa_core import ISAConfig, TokenLayout, estimate_cost
from ..runtime.heatmap import DETAILS
from ..runtime.live import Settings
from .live import DETAIL, RUNS, Run, events_of

LARGEST_BODY = 8192
"""Bytes."""
SHORTEST_PAUSE = 0.02
"""Seconds between two changes of the same run."""
MOST_TOKENS = 4_000_000
MOST_PAGES = 64
"""Whose wishes are kept."""


class Refused(Exception):
    """A refusal: an HTTP status other than 200, and a sentence."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status


def add_routes():
    """Called once, when the pack is loaded; does nothing without a server."""
    if not hasattr(PromptServer, "instance"):
        return
    routes = PromptServer.instance.routes
    for name, function in REQUESTS.items():
        routes.post(f"/liveditor_isa/{name}")(_answered(function))
    routes.get("/liveditor_isa/frames")(frames)


def change_run(body: dict) -> dict:
    """{"execution", "node", "values"} -> {"at": the model call that it takes effect at}."""
    values = body.get("values")
    if not isinstance(values, dict):
        raise Refused(400, 'Expected {"execution": id, "node": id, "values": {name: value}}.')
    run = _run_of(body)
    if not run.going:
        raise Refused(404, "This sampling run is over.")
    now = time.monotonic()
    if now - run.told < SHORTEST_PAUSE:
        raise Refused(429, f"Too many changes: leave {SHORTEST_PAUSE:g} s between two.")
    at = run.live.tell(values)
    run.told = now
    return {"at": at}


def estimate(body: dict) -> dict:
    """{"values", "tokens": [target, context ...], "exact"} -> {"density", "flop_ratio"}, as ratios have it; with a context_refresh also
    "reused", the flop_ratio of a step that reuses the context. exact: tokens of text and sound that stay exact, 0 where it is missing."""
    values, tokens, exact = body.get("values"), body.get("tokens"), body.get("exact", 0)
    whole = isinstance(tokens, list) and 0 < len(tokens) < 20 and all(type(count) is int and count > 0 for count in tokens)
    whole = whole and type(exact) is int and exact >= 0
    if not whole or sum(tokens) + exact > MOST_TOKENS or not isinstance(values, dict):
        raise Refused(
            400, f'Expected {{"values": {{name: value}}, "tokens": [target, context ...]}}, {MOST_TOKENS:,} tokens at most.'
        )
    settings = Settings(ISAConfig()).changed(values)
    if not settings.enabled or len(tokens) == 1:
        return {"density": 1.0, "flop_ratio": 1.0}
    context = (("context", count) for count in tokens[1:])
    layout = TokenLayout.of(("target", tokens[0]), *context, *[("exact", exact)] * (exact > 0))
    density, flop_ratio = estimate_cost(layout, settings.config)
    found = {"density": density, "flop_ratio": flop_ratio}
    if settings.context_refresh:
        found["reused"] = estimate_cost(layout, settings.config, without_context=True)[1]
    return found


def choose_detail(body: dict) -> dict:
    """{"client", "maps"}: which heat maps the runs of this page make."""
    client, wanted = body.get("client"), body.get("maps")
    if not isinstance(client, str) or not 0 < len(client) < 100 or wanted not in DETAILS:
        raise Refused(400, f'Expected {{"client": id, "maps": one of {", ".join(DETAILS)}}}.')
    DETAIL.pop(client, None)
    DETAIL[client] = wanted
    while len(DETAIL) > MOST_PAGES:
        DETAIL.popitem(last=False)
    return {"maps": wanted}


def events(body: dict) -> dict:
    """{"workflow", "client", "without"} -> {"events"}: the events of that page's runs, for a reloaded page. without: executions
    that are none of the shown workflow, which may be left out."""
    workflow, client, without = body.get("workflow"), body.get("client"), body.get("without", [])
    listed = isinstance(without, list) and all(isinstance(each, str) for each in without)
    if not isinstance(workflow, str) or not isinstance(client, str) or not listed:
        raise Refused(400, 'Expected {"workflow": id, "client": id, "without": [execution, ...]}.')
    return {"events": events_of(workflow, client, without)}


def list_maps(body: dict) -> dict:
    """{"execution", "node"} -> {"grids": of the target and every context, "found": [[model call, transformer block], ...]}."""
    run = _run_of(body)
    return {"grids": [part.grid for part in run.maps.parts], "found": run.maps.listed()}


def one_map(body: dict) -> dict:
    """{"execution", "node", "at", "block"} -> rows of bytes in base64, and what sharpness and share they stand for."""
    found = _run_of(body).maps.found.get((_whole(body, "at"), _whole(body, "block")))
    if found is None:
        raise Refused(404, "There is no such heat map.")
    rows = {name: base64.b64encode(getattr(found, name)).decode() for name in ("kept", "dense", "sharpness", "attended")}
    return {**rows, "sharpness_range": found.sharpness_range, "most_attended": found.most_attended}


async def frames(request: web.Request) -> web.Response:
    """?execution&node&part -> a JPEG of the part's frames, in rows of ⌈√T⌉."""
    try:
        _refuse_foreign(request)
        part = request.query.get("part", "")
        run = _run_of(request.query)
        parts = run.maps.parts
        if not part.isascii() or not part.isdigit() or int(part[:3]) >= len(parts) or parts[int(part[:3])].frames is None:
            raise Refused(404, "There are no such frames.")
        # In a thread, because hundreds of frames would block the server.
        content = await asyncio.to_thread(_sheet, parts[int(part[:3])].frames)
        return web.Response(body=content, content_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})
    except Refused as refused:
        return web.json_response({"error": str(refused)}, status=refused.status)


def _sheet(shown: torch.Tensor) -> bytes:
    """[T, h, w, 3] uint8 -> JPEG."""
    count, height, width, _ = shown.shape
    across = math.ceil(math.sqrt(count))
    sheet = Image.new("RGB", (across * width, math.ceil(count / across) * height))
    for index, frame in enumerate(shown.cpu().numpy()):
        sheet.paste(Image.fromarray(frame), (index % across * width, index // across * height))
    file = io.BytesIO()
    sheet.save(file, "JPEG", quality=80)
    return file.getvalue()


REQUESTS = {
    "live": change_run,
    "estimate": estimate,
    "detail": choose_detail,
    "events": events,
    "maps": list_maps,
    "map": one_map,
}


def _run_of(body) -> Run:
    execution, node = body.get("execution"), body.get("node")
    if not isinstance(execution, str) or not isinstance(node, str):
        raise Refused(400, 'Expected {"execution": id, "node": id, ...}.')
    run = RUNS.get((execution, node))
    if run is None:
        raise Refused(404, "No such sampling run is known.")
    return run


def _whole(body: dict, name: str) -> int:
    if type(body.get(name)) is not int:
        raise Refused(400, f"{name} must be a whole number.")
    return body[name]


def _answered(function):
    """A route of a function of the request's JSON object; a refusal becomes a status and a sentence."""

    async def route(request: web.Request) -> web.Response:
        try:
            return web.json_response(function(await _body_of(request)))
        except Refused as refused:
            return web.json_response({"error": str(refused)}, status=refused.status)
        except (ValueError, TypeError, RuntimeError) as error:
            return web.json_response({"error": str(error)}, status=400)

    return route


def _refuse_foreign(request: web.Request):
    if request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
        raise Refused(403, "Other sites may not look at or change a run.")


async def _body_of(request: web.Request) -> dict:
    _refuse_foreign(request)
    # A form on another site cannot send this type without a preflight request.
    if request.content_type != "application/json":
        raise Refused(415, "Send application/json.")
    if (request.content_length or 0) > LARGEST_BODY:
        raise Refused(413, f"At most {LARGEST_BODY} bytes.")
    content = b""
    async for part in request.content.iter_chunked(LARGEST_BODY):
        content += part
        if len(content) > LARGEST_BODY:
            raise Refused(413, f"At most {LARGEST_BODY} bytes.")
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        raise Refused(400, "This is not JSON.") from None
    if not isinstance(body, dict):
        raise Refused(400, "Expected a JSON object.")
    return body
