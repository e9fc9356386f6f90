"""The page's connection to sampling runs: what every step did, and settings that change on the way."""

from __future__ import annotations

import copy
import json
import time
from dataclasses import dataclass

from aiohttp import web
from comfy_execution.utils import get_executing_context
from server import PromptServer

from ..isa_core import ISAConfig, TokenLayout, estimate_cost
from ..patching.attach import Watcher
from ..patching.live import LiveSettings, Settings, write_changes

EVENT = "liveditor_isa.run"
LIVE_CHANGES = "live_changes"
"""The node's input that repeats a run which was changed live."""

LARGEST_BODY = 8192
"""Bytes."""
SHORTEST_PAUSE = 0.02
"""Seconds between two changes of the same run."""
MOST_TOKENS = 4_000_000


@dataclass
class Run:
    live: LiveSettings
    told: float = 0.0
    """When it was last changed."""


RUNNING: dict[tuple[str, str], Run] = {}
"""By execution and node."""

RECORDS: dict[str, dict[str, str]] = {}
"""{execution: {node: changes}} of the last execution that was changed live."""


class PageWatcher(Watcher):
    """Tells the page that queued the execution what its node's runs do."""

    def __init__(self, node_id: str | None):
        self.node = node_id
        self.execution: str | None = None

    def started(self, live, steps):
        running = get_executing_context()
        self.execution = running and running.prompt_id
        if self._unwatched():
            return
        RUNNING[self.execution, self.node] = Run(live)
        self._send(type="started", steps=steps, begins=live.step, values=live.current.values())

    def stepped(self, row):
        if not self._unwatched():
            self._send(type="step", **row)

    def ended(self, live):
        if self._unwatched():
            return
        RUNNING.pop((self.execution, self.node), None)
        changes = write_changes(live.record())
        if self.execution not in RECORDS:
            RECORDS.clear()
        RECORDS.setdefault(self.execution, {})[self.node] = changes
        self._send(type="ended", values=live.current.values(), changes=changes)

    def _unwatched(self) -> bool:
        return self.node is None or self.execution is None or not hasattr(PromptServer, "instance")

    def _send(self, **data):
        server = PromptServer.instance
        # To nobody it would go to everybody.
        if server.client_id is None:
            return
        server.send_sync(EVENT, {"execution": self.execution, "node": self.node, **data}, server.client_id)


def with_live_changes(tags: dict, execution: str | None) -> dict:
    """A video's tags (`prompt`, `workflow`) with the changes of the execution that makes it, so that they repeat it."""
    records = {node: changes for node, changes in RECORDS.get(execution, {}).items() if changes}
    if not records:
        return tags
    tags = copy.deepcopy(tags)
    for node, changes in records.items():
        if node in tags.get("prompt", {}):
            tags["prompt"][node]["inputs"][LIVE_CHANGES] = changes
        saved = _saved_node(tags.get("workflow"), node)
        # The page queues a workflow without the slots of its widgets, so only the order of their values tells: it is the last.
        if saved and saved.get("widgets_values"):
            saved["widgets_values"][-1] = changes
    return tags


def _saved_node(workflow: dict | None, execution_id: str) -> dict | None:
    """The node "12:7" is number 7 in the subgraph that number 12 is an instance of."""
    graph, node = workflow or {}, None
    subgraphs = {each["id"]: each for each in graph.get("definitions", {}).get("subgraphs", [])}
    for part in execution_id.split(":"):
        node = next((each for each in (graph or {}).get("nodes", []) if str(each["id"]) == part), None)
        graph = subgraphs.get(node["type"]) if node else None
    return node


def add_routes():
    """Called once, when the pack is loaded; nothing to do without a server."""
    if not hasattr(PromptServer, "instance"):
        return
    routes = PromptServer.instance.routes
    routes.post("/liveditor_isa/live")(_answered(change_run))
    routes.post("/liveditor_isa/estimate")(_answered(estimate))


class Refused(Exception):
    """An answer with an HTTP status that is not 200, and a sentence."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status


def change_run(body: dict) -> dict:
    """{"execution", "node", "values"} -> {"step": the one that it takes effect at}."""
    execution, node, values = (body.get(name) for name in ("execution", "node", "values"))
    if not isinstance(values, dict) or not isinstance(execution, str) or not isinstance(node, str):
        raise Refused(400, 'Expected {"execution": id, "node": id, "values": {name: value}}.')
    run = RUNNING.get((execution, node))
    if run is None:
        raise Refused(404, "No such sampling run is going on.")
    now = time.monotonic()
    if now - run.told < SHORTEST_PAUSE:
        raise Refused(429, f"Too many changes: leave {SHORTEST_PAUSE:g} s between two.")
    step = run.live.tell(values)
    run.told = now
    return {"step": step}


def estimate(body: dict) -> dict:
    """{"values", "tokens": [target, context ...]} -> {"density", "flop_ratio"}, as ratios have it."""
    values, tokens = body.get("values"), body.get("tokens")
    whole = isinstance(tokens, list) and 0 < len(tokens) < 20 and all(type(count) is int and count > 0 for count in tokens)
    if not whole or sum(tokens) > MOST_TOKENS or not isinstance(values, dict):
        raise Refused(
            400, f'Expected {{"values": {{name: value}}, "tokens": [target, context ...]}}, {MOST_TOKENS:,} tokens at most.'
        )
    settings = Settings(ISAConfig()).changed(values)
    if not settings.enabled or len(tokens) == 1:
        return {"density": 1.0, "flop_ratio": 1.0}
    density, flop_ratio = estimate_cost(TokenLayout(tokens[0], tuple(tokens[1:])), settings.config)
    return {"density": density, "flop_ratio": flop_ratio}


def _answered(function):
    """A route of a function of the request's JSON object; what it refuses becomes a status and a sentence."""

    async def route(request: web.Request) -> web.Response:
        try:
            return web.json_response(function(await _body_of(request)))
        except Refused as refused:
            return web.json_response({"error": str(refused)}, status=refused.status)
        except (ValueError, TypeError, RuntimeError) as error:
            return web.json_response({"error": str(error)}, status=400)

    return route


async def _body_of(request: web.Request) -> dict:
    if request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
        raise Refused(403, "Other sites may not change a run.")
    # A form of another site cannot send this type without asking first.
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
