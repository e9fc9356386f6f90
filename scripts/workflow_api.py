"""A workflow as people share it (what the page saves) as the prompt that the server runs (API form)."""

from __future__ import annotations

MUTED, BYPASSED = 2, 4
VIRTUAL = {"MarkdownNote", "Note"}
"""Nodes that exist on the page only."""


class Workflow:
    """A saved workflow without subgraphs, and the server's /object_info."""

    def __init__(self, saved: dict, object_info: dict):
        self.saved, self.info = saved, object_info
        self.nodes = {node["id"]: node for node in saved["nodes"] if node["type"] not in VIRTUAL}
        self.links = {link[0]: link for link in saved["links"]}
        if unknown := sorted({node["type"] for node in self.nodes.values()} - set(object_info)):
            raise ValueError(f"The server does not know these nodes: {', '.join(unknown)}. Is their pack installed?")

    def find(self, title: str) -> dict:
        """The node with this title, or this type when only one has it."""
        found = [node for node in self.nodes.values() if title in (self.title(node), node["type"])]
        if len(found) != 1:
            raise ValueError(
                f"{len(found)} nodes are called {title!r}; there are {', '.join(map(self.title, self.nodes.values()))}."
            )
        return found[0]

    def title(self, node: dict) -> str:
        """What the page shows above the node."""
        return node.get("title") or self.info[node["type"]]["display_name"]

    def prompt(self, changes: dict[str, dict] | None = None) -> dict:
        """API form; `changes` is {node title: {input: value}}, whose nested inputs are written "size.width"."""
        prompt = {
            str(node["id"]): {"class_type": node["type"], "inputs": self._inputs(node), "_meta": {"title": self.title(node)}}
            for node in self.nodes.values()
            if node.get("mode", 0) not in (MUTED, BYPASSED)
        }
        for title, values in (changes or {}).items():
            prompt[str(self.find(title)["id"])]["inputs"].update(values)
        return prompt

    def _inputs(self, node: dict) -> dict:
        inputs = dict(self._widgets(node))
        for slot in node["inputs"]:
            source = self._source(slot.get("link"))
            if source:
                inputs[slot["name"]] = source
        return inputs

    def _widgets(self, node: dict):
        """(name, value) of each widget. Values are saved in order; a seed's value is followed by its action after a run."""
        known = self.info[node["type"]]["input"]
        known = {**known.get("required", {}), **known.get("optional", {})}
        values = iter(node.get("widgets_values") or [])
        for slot in node["inputs"]:
            if "widget" not in slot:
                continue
            value = next(values)
            name = slot["name"]
            options = known.get(name, [None])[1:]
            if options and options[0].get("control_after_generate"):
                next(values)
            if name.split(".")[0] in known:
                yield name, value

    def _source(self, link) -> list | None:
        """[node id, output] behind a link, past bypassed nodes; None for none or a muted one."""
        if link is None:
            return None
        _, origin, output, *_ = self.links[link]
        node = self.nodes[origin]
        mode = node.get("mode", 0)
        if mode == MUTED:
            return None
        if mode == BYPASSED:
            kind = node["outputs"][output]["type"]
            through = next((slot for slot in node["inputs"] if slot["type"] == kind and "widget" not in slot), None)
            return self._source(through.get("link")) if through else None
        return [str(origin), output]
