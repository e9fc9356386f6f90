"""Lines of text on a node's face."""

from __future__ import annotations

import logging

from comfy_api.latest import io
from server import PromptServer

logger = logging.getLogger(__name__)

OUTSIDE_A_GRAPH = io.HiddenHolder.from_dict({})
"""What a node knows of the running graph when other code calls it: nothing. Core replaces it before it runs a node."""


def show_on_node(node_id: str | None, text: str):
    """Show `text` on the node with execution id `node_id`; does nothing when ComfyUI runs without its server."""
    if node_id is not None and hasattr(PromptServer, "instance"):
        PromptServer.instance.send_progress_text(text, node_id)


class Notices:
    """Sentences for a node's face, one a line, and for the log. title: the node's."""

    def __init__(self, title: str, node_id: str | None):
        self._title, self._node_id = title, node_id
        self._sentences: list[str] = []

    def __call__(self, sentence: str):
        logger.info("%s: %s", self._title, sentence)
        self._sentences.append(sentence)
        show_on_node(self._node_id, "\n".join(self._sentences))
