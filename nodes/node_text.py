"""A line of text on a node's face."""

from __future__ import annotations

from server import PromptServer


def show_on_node(node_id: str | None, text: str):
    """Show `text` on the node with execution id `node_id`; does nothing when ComfyUI runs without its server."""
    if node_id is not None and hasattr(PromptServer, "instance"):
        PromptServer.instance.send_progress_text(text, node_id)
