"""The page's connection to sampling runs: their events, settings changed during a run, heat maps."""

from __future__ import annotations

import base64
import copy
import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from comfy_execution.utils import get_executing_context
from server import PromptServer

from ..comfyui.attach import Watcher
from ..comfyui.scene import Part
from ..isa_core.config import SEGMENT_TOP_K
from ..runtime.heatmap import MEAN, OFF, THUMBNAIL, EncodedMap, encode
from ..runtime.live import LiveSettings, write_changes
from .node_text import show_on_node

logger = logging.getLogger(__name__)

EVENT = "liveditor_isa.run"
LIVE_CHANGES = "live_changes"
"""The node's input that repeats a run which was changed live."""
ROUTING_AT, LIVE_CHANGES_AT = 2, 12
"""Positions of **routing** and of this input among the values of the node's widgets; a way to route without a value of its own has the latter one earlier."""

MOST_RUNS, MOST_MAPPED = 32, 4
"""Runs that the server remembers, and those of them with heat maps."""
MOST_MAP_BYTES = 32 * 2**20
"""Limit for one run. Later evaluations store the mean only."""


class RunMaps:
    """The heat maps of one sampling run."""

    def __init__(self, parts: list[Part]):
        self.parts = parts
        self.found: dict[tuple[int, int], EncodedMap] = {}
        """By evaluation and transformer block (or MEAN)."""
        self._bytes = 0
        self._lock = threading.Lock()

    def add(self, at: int, block: int, found: EncodedMap):
        with self._lock:
            self._bytes += 4 * len(found.kept)
            if block == MEAN or self._bytes <= MOST_MAP_BYTES:
                self.found[at, block] = found

    def listed(self) -> list[tuple[int, int]]:
        """The keys of `found`, in order, on any thread."""
        with self._lock:
            return sorted(self.found)


@dataclass
class Run:
    """A sampling run of one Attach ISA node: the last one that the node had in its execution."""

    live: LiveSettings
    workflow: str | None
    """The workflow's id, by which the page recognises runs of the shown workflow."""
    client: str | None
    maps: RunMaps
    going: bool = True
    told: float = 0.0
    """When it was last changed."""
    changes: str = ""
    last: dict[str, dict] = field(default_factory=dict)
    """The last event of each type, for a page that missed them."""


RUNS: OrderedDict[tuple[str, str], Run] = OrderedDict()
"""By execution and node, the oldest first. The sampler's thread writes, the server's reads: iterate over `_remembered()`."""

_RUNS_LOCK = threading.Lock()

CHANGED: Counter[str] = Counter()
"""How often a run of a node was changed live: the result then differs from that of the node's settings."""

DETAIL: OrderedDict[str, str] = OrderedDict()
"""Which heat maps each page requests, by its client id."""

ENCODER = ThreadPoolExecutor(1, "liveditor_isa maps")
"""Encodes and sends heat maps, so that the sampler need not."""


class PageWatcher(Watcher):
    """Sends the events of a node's runs to the page that queued the execution, and stores them for a page that missed them."""

    def __init__(self, node_id: str | None):
        self.node = node_id
        self.execution: str | None = None
        self.workflow: str | None = None
        self.client: str | None = None
        self.run: Run | None = None

    def say(self, text: str):
        """Sentences about the node's run, or what it will be: for the page's panel, and as the node's text for who has no panel."""
        show_on_node(self.node, text)
        if self.run is None:
            self._locate()
        self._send(type="report", sentences=text)

    def started(self, live, steps, parts):
        self.run = None
        if not self._locate():
            return OFF
        detail = DETAIL.get(self.client, THUMBNAIL) if self.client else OFF
        # Frames are needed only for heat maps.
        self.run = Run(live, self.workflow, self.client, RunMaps([] if detail == OFF else parts))
        _remember(self.execution, self.node, self.run)
        settings = live.current
        self._send(
            type="started",
            steps=steps,
            values=settings.values(),
            grids=[part.grid for part in parts],
            block=settings.config.block_size,
        )
        return detail

    def stepped(self, row):
        self._send(type="step", **row)

    def mapped(self, at, blocks, maps):
        if self.run is not None:
            ENCODER.submit(self._encode, self.run, at, blocks, maps)

    def _encode(self, run, at, blocks, maps):
        try:
            for block, found in zip(blocks, maps.tensor()):
                run.maps.add(at, block, encode(found))
            mean = run.maps.found.get((at, MEAN))
            if mean is not None and self.run is run:
                self._send(type="map", at=at, attended=base64.b64encode(mean.attended).decode())
        except Exception:
            logger.exception("ISA: the heat map of one model call is lost")

    def ended(self, live):
        if self.run is None:
            return
        self.run.going = False
        self.run.changes = write_changes(live.record())
        CHANGED[self.node] += live.told_any
        self._send(type="ended", values=live.current.values(), changes=self.run.changes)

    def _locate(self) -> bool:
        """Note whose execution this is; False outside of a server's."""
        running = get_executing_context()
        self.execution = running and running.prompt_id
        if self.node is None or self.execution is None or not hasattr(PromptServer, "instance"):
            self.execution = None
            return False
        self.client, self.workflow = PromptServer.instance.client_id, _workflow_of(self.execution)
        return True

    def _send(self, **event):
        if self.execution is None:
            return
        event |= {"execution": self.execution, "node": self.node, "workflow": self.workflow}
        if self.run is not None:
            self.run.last[event["type"]] = event
        # Without a client id the server would send it to all pages.
        if self.client is not None:
            PromptServer.instance.send_sync(EVENT, event, self.client)


def _remember(execution: str, node: str, run: Run):
    with _RUNS_LOCK:
        RUNS.pop((execution, node), None)
        RUNS[execution, node] = run
        while len(RUNS) > MOST_RUNS:
            RUNS.popitem(last=False)
    for _, earlier in _remembered()[:-MOST_MAPPED]:
        earlier.maps = RunMaps([])


def _remembered() -> list[tuple[tuple[str, str], Run]]:
    with _RUNS_LOCK:
        return list(RUNS.items())


def _workflow_of(execution: str) -> str | None:
    """The id of the queued workflow, if a page queued one."""
    running, _ = PromptServer.instance.prompt_queue.get_current_queue_volatile()
    for _, prompt_id, _, extra, *_ in running:
        if prompt_id == execution:
            return _object(_object(extra.get("extra_pnginfo")).get("workflow")).get("id")
    return None


def events_of(workflow: str, client: str, without: Collection[str] = ()) -> list[dict]:
    """The events of each node's latest run in this workflow, for this page. without: executions of the workflow's other copies."""
    of_page = [(of, node, run) for (of, node), run in _remembered() if (run.workflow, run.client) == (workflow, client)]
    latest = {node: run for of, node, run in of_page if of not in without}
    order = ("started", "step", "map", "ended", "report")
    return [run.last[kind] for run in latest.values() for kind in order if kind in run.last]


def with_live_changes(tags: dict, execution: str | None) -> dict:
    """A video's tags (`prompt`, `workflow`) with the changes of the execution that makes it, so that they repeat it."""
    records = {node: run.changes for (of, node), run in _remembered() if of == execution and run.changes}
    if not records:
        return tags
    tags = copy.deepcopy(tags)
    for node, changes in records.items():
        inputs = _object(_object(tags.get("prompt")).get(node)).get("inputs")
        if isinstance(inputs, dict):
            inputs[LIVE_CHANGES] = changes
        saved = _saved_node(tags.get("workflow"), node)
        # The page queues a workflow without its widgets' slots, so only the order of values identifies it.
        values = saved.get("widgets_values")
        if isinstance(values, list) and len(values) > ROUTING_AT:
            at = LIVE_CHANGES_AT - (values[ROUTING_AT] == SEGMENT_TOP_K)
            if len(values) > at:
                values[at] = changes
    return tags


def _saved_node(workflow, execution_id: str) -> dict:
    """The node "12:7" is number 7 in the subgraph that number 12 is an instance of; an empty one if it is not there."""
    graph, node = workflow, {}
    subgraphs = {str(each.get("id")): each for each in _objects(_object(_object(workflow).get("definitions")).get("subgraphs"))}
    for part in execution_id.split(":"):
        node = next((each for each in _objects(_object(graph).get("nodes")) if str(each.get("id")) == part), {})
        graph = subgraphs.get(str(node.get("type")))
    return node


def _object(value) -> dict:
    """`value` if it is an object, otherwise an empty one, because a workflow may contain anything."""
    return value if isinstance(value, dict) else {}


def _objects(value) -> list[dict]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
