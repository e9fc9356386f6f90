"""A workflow as people save it (what the page saves) as the prompt that the server runs (API form).

Subgraphs are taken apart as the page does it: the node 4 within subgraph 13 becomes node "13:4".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

MUTED, BYPASSED = 2, 4

NOTES = {"MarkdownNote", "Note"}
VIRTUAL = NOTES | {"Reroute", "PrimitiveNode", "SetNode", "GetNode"}
"""Nodes that exist on the page only; the last two are KJNodes'."""

AFTER_A_RUN = ("fixed", "increment", "decrement", "randomize")
"""What follows the value of a seed: its action after a run."""

WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
"""Types of inputs that nodes show as widgets, beside lists of choices."""

DEEPEST = 50


@dataclass(frozen=True)
class Value:
    """What comes through a link from a widget instead of a node."""

    value: object


@dataclass
class Graph:
    """One level: the workflow itself, or a subgraph in the place of one of its instances.

    name: of the instance in the prompt, "13" or "13:7", empty for the workflow. links: {id: (origin, its slot)}.
    """

    definition: dict
    name: str = ""
    parent: Graph | None = None
    instance: dict = field(default_factory=dict)
    values: dict[str, object] = field(default_factory=dict)
    """Of the instance's widgets, by the name of its input."""
    proxies: dict[tuple[str, str], object] = field(default_factory=dict)
    """Of the instance's widgets as older pages save them, by node within and widget."""
    changed: dict[str, object] = field(default_factory=dict)
    """Values that were asked for, in place of whatever is there or connected."""

    def __post_init__(self):
        self.nodes = {node["id"]: node for node in self.definition["nodes"]}
        self.links, self.outputs = {}, {}
        for link in self.definition.get("links") or []:
            if isinstance(link, dict):
                link = [link[name] for name in ("id", "origin_id", "origin_slot", "target_id", "target_slot")]
            identity, origin, slot, target, at, *_ = link
            self.links[identity] = (origin, slot)
            if target == self.end("outputNode", -20):
                self.outputs[at] = identity

    def end(self, which: str, otherwise: int):
        return self.definition.get(which, {}).get("id", otherwise)

    def id_of(self, node: dict) -> str:
        return f"{self.name}:{node['id']}" if self.name else str(node["id"])


class Workflow:
    """A saved workflow, and the server's /object_info."""

    def __init__(self, saved: dict, object_info: dict):
        self.saved, self.info = saved, object_info
        subgraphs = (saved.get("definitions") or {}).get("subgraphs") or []
        self._subgraphs = {definition["id"]: definition for definition in subgraphs}
        self._instances: dict[str, tuple[Graph, dict]] = {}
        self._inner: dict[str, Graph] = {}
        self._places: dict[str, tuple[Graph, dict]] = {}
        self._expand(Graph(saved), active=True)
        self.nodes = {name: node for name, (_, node) in self._places.items()}
        """{id in the prompt: node}, without nodes of the page only, and with those of subgraphs."""
        active = {node["type"] for name, node in self.nodes.items() if name in self._active}
        if unknown := sorted(active - set(object_info)):
            raise ValueError(f"The server does not know these nodes: {', '.join(unknown)}. Is their pack installed?")

    def _expand(self, graph: Graph, active: bool, depth: int = 0):
        if depth > DEEPEST:
            raise ValueError("A subgraph of this workflow holds itself: it cannot be run.")
        if depth == 0:
            self._active: set[str] = set()
        for node in graph.nodes.values():
            runs = active and node.get("mode", 0) not in (MUTED, BYPASSED)
            name = graph.id_of(node)
            if definition := self._subgraphs.get(node["type"]):
                inner = self._inner[name] = Graph(definition, name, graph, node, *_promoted(node))
                self._instances[name] = graph, node
                self._expand(inner, runs, depth + 1)
            elif node["type"] not in VIRTUAL:
                self._places[name] = graph, node
                if runs:
                    self._active.add(name)

    def find(self, title: str) -> dict:
        """The node with this title, or this type when only one has it."""
        return self._found(title)[1]

    def _found(self, title: str) -> tuple[str, dict]:
        named = [*self._places.items(), *self._instances.items()]
        found = [(name, node) for name, (_, node) in named if title in (self.title(node), node["type"], name)]
        if len(found) != 1:
            there = ", ".join(self.title(node) for _, (_, node) in named)
            raise ValueError(f"{len(found)} nodes are called {title!r}; there are {there}.")
        return found[0]

    def node(self, name: str) -> dict:
        """The node that the server calls so."""
        return self.nodes[str(name)]

    def title(self, node: dict) -> str:
        """What the page shows above the node."""
        own = self._subgraphs.get(node["type"], {}).get("name")
        return node.get("title") or own or self.info.get(node["type"], {}).get("display_name", node["type"])

    def prompt(self, changes: dict[str, dict] | None = None) -> dict:
        """API form; `changes` is {node title: {input: value}}, whose nested inputs are written "size.width".

        A subgraph's own widgets are changed by the title of the subgraph.
        """
        found = [(self._found(title)[0], values) for title, values in (changes or {}).items()]
        for name, values in found:
            if name in self._inner:
                self._inner[name].changed.update(values)
        prompt = {
            name: {"class_type": node["type"], "inputs": self._inputs(graph, node), "_meta": {"title": self.title(node)}}
            for name, (graph, node) in self._places.items()
            if name in self._active
        }
        for name, values in found:
            if name not in self._inner:
                prompt[name]["inputs"].update(values)
        return prompt

    def _inputs(self, graph: Graph, node: dict) -> dict:
        inputs = {name: _boxed(value) for name, value in (self._defaults(node) | dict(self._widgets(node))).items()}
        for (inner, widget), value in graph.proxies.items():
            if inner == str(node["id"]) and widget in inputs:
                inputs[widget] = _boxed(value)
        for slot in node.get("inputs") or []:
            source = self._source(graph, slot.get("link"), slot.get("type", "*"))
            if isinstance(source, Value):
                inputs[slot["name"]] = _boxed(source.value)
            elif source:
                inputs[slot["name"]] = source
        if node["type"] == "CustomCombo":  # its options are the page's own, in the order of their numbers
            options = list(node.get("widgets_values") or [])[2:]
            inputs |= {f"option{number}": option for number, option in enumerate(options, 1)}
            inputs["index"] = options.index(inputs["choice"]) if inputs.get("choice") in options else 0
        return inputs

    def _defaults(self, node: dict) -> dict[str, object]:
        """Of widgets that a file of an older version lacks."""
        known = self.info[node["type"]]["input"]
        known = {**known.get("required", {}), **known.get("optional", {})}
        options = {name: kind[1] for name, kind in known.items() if len(kind) > 1 and isinstance(kind[1], dict)}
        return {name: more["default"] for name, more in options.items() if "default" in more and not more.get("forceInput")}

    def _widgets(self, node: dict) -> Iterator[tuple[str, object]]:
        """(name, value) of each widget. Values are saved in order; a seed's value is followed by its action after a run."""
        known = self.info[node["type"]]["input"]
        known = {**known.get("required", {}), **known.get("optional", {})}
        saved = node.get("widgets_values") or []
        if isinstance(saved, dict):  # as some packs save them
            yield from ((name, value) for name, value in saved.items() if name in known)
            return
        names = [slot["name"] for slot in node.get("inputs") or [] if "widget" in slot]
        own = [name for name, kind in known.items() if _is_widget(kind)]
        pairs, left = _matched(names, saved, known)
        if left and not set(own) <= set(names):  # older pages save slots of widgets only where something is connected
            pairs, left = _matched(own, saved, known)
        yield from ((name, value) for name, value in pairs if name.split(".")[0] in known)

    def _source(self, graph: Graph, link, kind: str, depth: int = 0) -> list | Value | None:
        """[node id, output] behind a link, past bypassed nodes, reroutes and the ends of subgraphs; a value where a widget is
        behind it; None for nothing or a muted node. kind: type of the input that asks."""
        if link is None or link not in graph.links or depth > 1000:
            return None
        origin, slot = graph.links[link]
        if graph.parent is not None and origin == graph.end("inputNode", -10):
            return self._from_outside(graph, slot, kind, depth + 1)
        node = graph.nodes.get(origin)
        if node is None or node.get("mode", 0) == MUTED:
            return None
        inputs = node.get("inputs") or []
        if node.get("mode", 0) == BYPASSED:
            through = _through(node, slot, kind)
            return self._source(graph, through.get("link"), kind, depth + 1) if through else None
        if inner := self._inner.get(graph.id_of(node)):
            return self._source(inner, inner.outputs.get(slot), kind, depth + 1)
        if node["type"] == "PrimitiveNode":
            values = node.get("widgets_values") or []
            return Value(values[0]) if values else None
        if node["type"] == "GetNode":
            graph, node = self._setter(graph, node) or (graph, {})
            inputs = node.get("inputs") or []
        if node.get("type") in (None, "Reroute", "SetNode"):
            return self._source(graph, inputs[0].get("link"), kind, depth + 1) if inputs else None
        return None if node["type"] in VIRTUAL else [graph.id_of(node), slot]

    def _from_outside(self, graph: Graph, slot: int, kind: str, depth: int) -> list | Value | None:
        """What comes in through an input of a subgraph."""
        name = graph.definition["inputs"][slot]["name"]
        inputs = graph.instance.get("inputs") or []
        outside = next((entry for entry in inputs if entry["name"] == name), None)
        assert graph.parent is not None
        if name in graph.changed:
            return Value(graph.changed[name])
        if outside and outside.get("link") is not None:
            return self._source(graph.parent, outside["link"], kind, depth)
        if graph.values.get(name) is not None:
            return Value(graph.values[name])
        for (inner, widget), value in graph.parent.proxies.items():  # a widget of a subgraph within a subgraph
            if inner == str(graph.instance["id"]) and widget == name:
                return Value(value)
        return self._first_within(graph, slot)

    def _first_within(self, graph: Graph, slot: int) -> Value | None:
        """The value of the first widget that an input of a subgraph is connected to: all that are connected have it."""
        end = graph.end("inputNode", -10)
        for identity in graph.definition["inputs"][slot].get("linkIds") or []:
            if graph.links.get(identity) != (end, slot):
                continue
            for node in graph.nodes.values():
                for entry in node.get("inputs") or []:
                    if entry.get("link") != identity or not entry.get("widget"):
                        continue
                    if inner := self._inner.get(graph.id_of(node)):
                        if (value := inner.values.get(entry["name"])) is not None:
                            return Value(value)
                        at = [each["name"] for each in inner.definition["inputs"]].index(entry["name"])
                        return self._first_within(inner, at)
                    values = dict(self._widgets(node)) if node["type"] in self.info else {}
                    values |= {name: value for (of, name), value in graph.proxies.items() if of == str(node["id"])}
                    return Value(values[entry["name"]]) if entry["name"] in values else None
        return None

    @staticmethod
    def _setter(graph: Graph | None, getter: dict) -> tuple[Graph, dict] | None:
        """The SetNode of a GetNode, on its level or one above."""
        wanted = (getter.get("widgets_values") or [None])[0]
        while graph is not None:
            for node in graph.nodes.values():
                if node["type"] == "SetNode" and (node.get("widgets_values") or [None])[0] == wanted:
                    return graph, node
            graph = graph.parent
        return None


def _matched(names: list[str], saved: list, known: dict) -> tuple[list[tuple[str, object]], list]:
    """([(name, value)], what is left of the values)."""
    pairs, values = [], list(saved)
    for name in names[: len(values)]:
        if not values:
            break
        pairs.append((name, values.pop(0)))
        options = known.get(name, [None])[1:]
        seed = options and options[0].get("control_after_generate") or name in ("seed", "noise_seed")
        if seed and values and values[0] in AFTER_A_RUN:
            values.pop(0)
    return pairs, values


def _promoted(instance: dict) -> tuple[dict[str, object], dict[tuple[str, str], object]]:
    """Values of an instance's widgets, by its input and by the inner node and widget. Without values, those within count."""
    values = instance.get("widgets_values") or []
    proxies = (instance.get("properties") or {}).get("proxyWidgets") or []
    if isinstance(values, dict):
        return dict(values), {}
    if proxies and len(values) == len(proxies):
        pairs = [(str(node), name, value) for (node, name, *_), value in zip(proxies, values)]
        own = {name: value for node, name, value in pairs if node == "-1"}
        return own, {(node, name): value for node, name, value in pairs if node != "-1" and value is not None}
    names = [slot["name"] for slot in instance.get("inputs") or [] if slot.get("widget")]
    return dict(zip(names, values)), {}


def _through(node: dict, slot: int, kind: str) -> dict | None:
    """The input whose link a bypassed node passes on to its output `slot`, by the page's rules."""
    inputs, output = node.get("inputs") or [], node["outputs"][slot]["type"]
    if kind in ("*", ""):
        return inputs[slot] if slot < len(inputs) else next(iter(inputs), None)
    fits = [entry for entry in inputs if _connects(entry["type"], output) and _connects(entry["type"], kind)]
    if slot < len(inputs) and inputs[slot] in fits:
        return inputs[slot]
    return next((entry for entry in inputs if entry["type"] == kind), next(iter(fits), None))


def _connects(one, other) -> bool:
    if any(kind in ("*", "", 0, None) for kind in (one, other)):
        return True
    kinds = [set(str(kind).lower().split(",")) for kind in (one, other)]
    return bool(kinds[0] & kinds[1])


def _is_widget(kind) -> bool:
    options = kind[1] if len(kind) > 1 and isinstance(kind[1], dict) else {}
    return (isinstance(kind[0], list) or kind[0] in WIDGETS) and not options.get("forceInput")


def _boxed(value):
    """A list, which would be read as a link, as the page writes it."""
    return {"__value__": value} if isinstance(value, list) else value
