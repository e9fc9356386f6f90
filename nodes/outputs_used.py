"""Which outputs of a node the running graph uses."""

from __future__ import annotations

from collections.abc import Mapping

from comfy_execution.graph_utils import is_link
from server import PromptServer


def outputs_used(hidden, count: int) -> set[int]:
    """Slots of a node's `count` outputs to which others are connected.

    hidden: the node's; it has to ask for dynprompt and unique_id. All slots where another node has put this one into the
    graph: its outputs may be handed on in ways that the graph does not show.
    """
    graph = hidden.dynprompt
    if graph is None or hidden.unique_id not in graph.get_original_prompt():
        return set(range(count))
    return _linked({node: graph.get_node(node) for node in graph.all_node_ids()}, hidden.unique_id)


def outputs_used_by_running_prompt(node_id: str | None) -> set[int]:
    """The same before nodes run, when core gives a node no graph: by the prompt that the server works on."""
    queue = getattr(getattr(PromptServer, "instance", None), "prompt_queue", None)
    running = list(queue.currently_running.values()) if queue is not None else []
    return set().union(*(_linked(prompt, node_id) for _, _, prompt, *_ in running))


def _linked(graph: Mapping[str, dict], node_id: str | None) -> set[int]:
    values = (value for node in graph.values() for value in node["inputs"].values())
    return {value[1] for value in values if is_link(value) and value[0] == node_id}
