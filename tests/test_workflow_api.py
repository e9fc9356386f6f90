"""Workflows as people save them, subgraphs and all, become the prompt that the page would send."""

import copy
import json

import pytest
from comfy_headless import ROOT
from workflow_api import BYPASSED, MUTED, Workflow

INFO = {
    "Load": {"display_name": "Load", "input": {"required": {"file": [["a", "b"]]}}},
    "Edit": {
        "display_name": "Edit",
        "input": {
            "required": {"image": ["IMAGE"], "seed": ["INT", {"control_after_generate": True}], "text": ["STRING", {}]},
            "optional": {"scale": ["FLOAT", {}], "other": ["IMAGE"], "forced": ["INT", {"forceInput": True}]},
        },
    },
    "Save": {"display_name": "Save", "input": {"required": {"image": ["IMAGE"], "name": ["STRING"]}}},
}


def widget(name, kind="STRING", link=None):
    return {"name": name, "type": kind, "widget": {"name": name}, "link": link}


def socket(name, link=None, kind="IMAGE"):
    return {"name": name, "type": kind, "link": link}


def load(identity=1, **more):
    return {
        "id": identity,
        "type": "Load",
        "inputs": [widget("file", "COMBO")],
        "outputs": [socket("IMAGE")],
        "widgets_values": ["a"],
        **more,
    }


def edit(identity, image, seed=None, text=None, values=(7, "fixed", "night", 1.0), **more):
    inputs = [
        socket("image", image),
        widget("seed", "INT", seed),
        widget("text", "STRING", text),
        widget("scale", "FLOAT"),
        socket("other"),
    ]
    return {
        "id": identity,
        "type": "Edit",
        "inputs": inputs,
        "outputs": [socket("IMAGE")],
        "widgets_values": list(values),
        **more,
    }


def save(identity, image):
    return {
        "id": identity,
        "type": "Save",
        "inputs": [socket("image", image), widget("name")],
        "outputs": [],
        "widgets_values": ["x"],
    }


def links(*five):
    return [
        {"id": i, "origin_id": origin, "origin_slot": slot, "target_id": target, "target_slot": at, "type": "*"}
        for i, origin, slot, target, at in five
    ]


def subgraph(name, nodes, links_, inputs=("image", "text"), outputs=("IMAGE",)):
    return {
        "id": name, "name": name, "inputNode": {"id": -10}, "outputNode": {"id": -20}, "nodes": nodes, "links": links_,
        "inputs": [{"name": input_} for input_ in inputs], "outputs": [{"name": output} for output in outputs],
    }  # fmt: skip


INNER = subgraph("inner", [edit(4, 1, text=2)], links((1, -10, 0, 4, 0), (2, -10, 1, 4, 2), (3, 4, 0, -20, 0)))


def saved(nodes, links_, *definitions):
    return {"nodes": nodes, "links": links_, "definitions": {"subgraphs": list(definitions)}}


def instance(identity, kind, image, values=("snow",), text=None, **more):
    inputs = [socket("image", image), widget("text", "STRING", text)]
    return {
        "id": identity,
        "type": kind,
        "inputs": inputs,
        "outputs": [socket("IMAGE")],
        "widgets_values": list(values),
        **more,
    }


CHAIN = [[1, 1, 0, 2, 0, "IMAGE"], [2, 2, 0, 3, 0, "IMAGE"]]


def inputs_of(workflow, changes=None) -> dict:
    return {name: node["inputs"] for name, node in Workflow(workflow, INFO).prompt(changes).items()}


def test_a_subgraph_is_taken_apart():
    found = inputs_of(saved([load(), instance(2, "inner", 1), save(3, 2)], CHAIN, INNER))
    assert found == {
        "1": {"file": "a"},
        "2:4": {"image": ["1", 0], "seed": 7, "text": "snow", "scale": 1.0},
        "3": {"image": ["2:4", 0], "name": "x"},
    }


@pytest.mark.parametrize("values", [(), (None,)])
def test_without_a_value_of_its_own_the_one_within_counts(values):
    assert inputs_of(saved([load(), instance(2, "inner", 1, values), save(3, 2)], CHAIN, INNER))["2:4"]["text"] == "night"


def test_without_one_all_that_are_connected_have_the_first_value_within():
    two = subgraph(
        "inner", [edit(4, 1, text=2), edit(5, 3, text=5, values=(7, "fixed", "day", 1.0))],
        links((1, -10, 0, 4, 0), (2, -10, 1, 4, 2), (3, 4, 0, 5, 0), (5, -10, 1, 5, 2), (6, 5, 0, -20, 0)),
    )  # fmt: skip
    two["inputs"][1]["linkIds"] = [2, 5]
    found = inputs_of(saved([load(), instance(2, "inner", 1, ()), save(3, 2)], CHAIN, two))
    assert found["2:4"]["text"] == found["2:5"]["text"] == "night"


def test_widgets_that_a_file_lacks_have_their_defaults():
    info = {
        **INFO,
        "Load": {
            "display_name": "Load",
            "input": {"required": {"file": [["a"]]}, "optional": {"depth": ["INT", {"default": 8}]}},
        },
    }
    assert Workflow(saved([load()], []), info).prompt()["1"]["inputs"] == {"depth": 8, "file": "a"}


def test_a_combo_of_the_pages_own_has_its_index():
    info = {**INFO, "CustomCombo": {"display_name": "C", "input": {"required": {"choice": ["COMBO", {"options": []}]}}}}
    node = {"id": 1, "type": "CustomCombo", "inputs": [widget("choice", "COMBO")], "widgets_values": ["b", 1, "a", "b", ""]}
    workflow = Workflow(saved([node], []), info)
    assert workflow.prompt()["1"]["inputs"] == {"choice": "b", "index": 1, "option1": "a", "option2": "b", "option3": ""}


def test_two_instances_keep_their_values_and_changes_name_them():
    nodes = [load(), instance(2, "inner", 1, title="First"), instance(5, "inner", 2, ("rain",), title="Second"), save(3, 3)]
    both = saved(nodes, [*CHAIN[:1], [2, 2, 0, 5, 0, "IMAGE"], [3, 5, 0, 3, 0, "IMAGE"]], INNER)
    found = inputs_of(both, {"Second": {"text": "fog"}, "Save": {"name": "y"}})
    assert (found["2:4"]["text"], found["5:4"]["text"]) == ("snow", "fog")
    assert found["5:4"]["image"] == ["2:4", 0] and found["3"] == {"image": ["5:4", 0], "name": "y"}
    workflow = Workflow(both, INFO)
    assert workflow.title(workflow.node("5:4")) == "Edit"
    with pytest.raises(ValueError, match="2 nodes are called 'Edit'"):
        workflow.find("Edit")


def nested(values=("snow",), inner_values=()):
    outer = subgraph(
        "outer", [instance(7, "inner", 1, inner_values, text=2), edit(8, 3)],
        links((1, -10, 0, 7, 0), (2, -10, 1, 7, 1), (3, 7, 0, 8, 0), (4, 8, 0, -20, 0)),
    )  # fmt: skip
    return saved([load(), instance(2, "outer", 1, values), save(3, 2)], CHAIN, INNER, outer)


def test_subgraphs_within_subgraphs():
    found = inputs_of(nested())
    assert list(found) == ["1", "2:7:4", "2:8", "3"]
    assert found["2:7:4"] == {"image": ["1", 0], "seed": 7, "text": "snow", "scale": 1.0}
    assert found["2:8"]["image"] == ["2:7:4", 0] and found["3"]["image"] == ["2:8", 0]
    assert inputs_of(nested(values=()))["2:7:4"]["text"] == "night"


def test_one_that_holds_itself_is_refused():
    itself = subgraph("inner", [instance(4, "inner", 1)], links((1, -10, 0, 4, 0), (3, 4, 0, -20, 0)))
    with pytest.raises(ValueError, match="holds itself"):
        Workflow(saved([instance(2, "inner", None)], [], itself), INFO)


@pytest.mark.parametrize("mode, image", [(MUTED, None), (BYPASSED, ["1", 0])])
@pytest.mark.parametrize("where", ["the instance", "a node within", "a plain node"])
def test_muted_and_bypassed(mode, image, where):
    workflow = saved([load(), instance(2, "inner", 1), save(3, 2)], CHAIN, copy.deepcopy(INNER))
    if where == "the instance":
        workflow["nodes"][1]["mode"] = mode
    elif where == "a node within":
        workflow["definitions"]["subgraphs"][0]["nodes"][0]["mode"] = mode
    else:
        workflow["nodes"][1] = edit(2, 1, mode=mode)
    found = inputs_of(workflow)
    assert list(found) == ["1", "3"] and found["3"].get("image") == image


def test_a_node_that_the_server_does_not_know_may_be_off():
    unknown = {"id": 9, "type": "Unknown", "inputs": [], "outputs": []}
    with pytest.raises(ValueError, match="does not know these nodes: Unknown. Is their pack installed"):
        Workflow(saved([unknown], []), INFO)
    assert Workflow(saved([unknown | {"mode": MUTED}, load()], []), INFO).prompt().keys() == {"1"}


def virtual(identity, kind, link=None, values=()):
    return {
        "id": identity,
        "type": kind,
        "inputs": [socket("", link, "*")],
        "outputs": [socket("", None, "*")],
        "widgets_values": list(values),
    }


def test_reroutes_primitives_and_named_links_stand_for_what_is_behind_them():
    nodes = [load(), virtual(10, "Reroute", 1), virtual(11, "Reroute", 2), virtual(12, "SetNode", 3, ["picture"])]
    nodes += [virtual(13, "GetNode", None, ["picture"]), virtual(14, "PrimitiveNode", None, ["dusk"]) | {"inputs": []}]
    nodes += [edit(2, 4, text=5), save(3, 6), virtual(15, "MarkdownNote"), virtual(16, "GetNode", None, ["nothing"])]
    all_links = [[1, 1, 0, 10, 0], [2, 10, 0, 11, 0], [3, 11, 0, 12, 0], [4, 13, 0, 2, 0], [5, 14, 0, 2, 2], [6, 16, 0, 3, 0]]
    found = inputs_of(saved(nodes, [[*link, "*"] for link in all_links]))
    assert found.keys() == {"1", "2", "3"} and "image" not in found["3"]
    assert found["2"] == {"image": ["1", 0], "seed": 7, "text": "dusk", "scale": 1.0}


def test_they_do_within_and_around_subgraphs_too():
    inner = subgraph(
        "inner", [virtual(5, "Reroute", 1), edit(4, 4, text=2), virtual(6, "Reroute", 5)],
        links((1, -10, 0, 5, 0), (2, -10, 1, 4, 2), (4, 5, 0, 4, 0), (5, 4, 0, 6, 0), (3, 6, 0, -20, 0)),
    )  # fmt: skip
    around = saved(
        [load(), instance(2, "inner", 1, text=7), virtual(9, "PrimitiveNode", None, ["dusk"]), save(3, 2)],
        [*CHAIN, [7, 9, 0, 2, 1, "STRING"]],
        inner,
    )
    assert inputs_of(around)["2:4"] == {"image": ["1", 0], "seed": 7, "text": "dusk", "scale": 1.0}
    assert inputs_of(around, {"inner": {"text": "fog"}})["2:4"]["text"] == "fog"


def test_an_output_that_is_an_input_passes_through():
    through = subgraph("inner", [], links((1, -10, 0, -20, 0)))
    assert inputs_of(saved([load(), instance(2, "inner", 1), save(3, 2)], CHAIN, through))["3"]["image"] == ["1", 0]


def test_widgets_as_older_pages_promote_them():
    """By node and widget; -1 is the instance's own input."""
    node = instance(2, "inner", 1, (2.5, "snow", 99))
    node["properties"] = {"proxyWidgets": [["4", "scale"], ["-1", "text"], ["4", "seed"]]}
    assert inputs_of(saved([load(), node, save(3, 2)], CHAIN, INNER))["2:4"] == {
        "image": ["1", 0], "seed": 99, "text": "snow", "scale": 2.5,
    }  # fmt: skip
    node["widgets_values"] = []
    assert inputs_of(saved([load(), node, save(3, 2)], CHAIN, INNER))["2:4"]["scale"] == 1.0


def test_widgets_as_older_pages_and_other_packs_save_them():
    old = edit(2, 1) | {"inputs": [socket("image", 1)]}
    assert inputs_of(saved([load(), old, save(3, 2)], CHAIN))["2"] == {
        "image": ["1", 0],
        "seed": 7,
        "text": "night",
        "scale": 1.0,
    }
    by_name = edit(2, 1) | {"widgets_values": {"seed": 8, "text": "fog", "preview": {}}}
    assert inputs_of(saved([load(), by_name, save(3, 2)], CHAIN))["2"] == {"image": ["1", 0], "seed": 8, "text": "fog"}
    assert inputs_of(saved([load(), edit(2, 1, values=(7, "night", 1.0)), save(3, 2)], CHAIN))["2"]["text"] == "night"
    listed = edit(2, 1, values=(7, "fixed", ["a", 0], 1.0))
    assert inputs_of(saved([load(), listed, save(3, 2)], CHAIN))["2"]["text"] == {"__value__": ["a", 0]}


def test_our_own_subgraph():
    """Its widgets are all promoted; the server's part is in tests/nodes."""
    workflow = json.loads((ROOT / "subgraphs/Edit video (LIVEditor + ISA).json").read_text(encoding="utf-8"))
    kinds = {node["type"] for node in workflow["definitions"]["subgraphs"][0]["nodes"]}
    info = {kind: {"display_name": kind, "input": {}} for kind in kinds}
    prompt = Workflow(workflow, info).prompt({"Edit video (LIVEditor + ISA)": {"text": "Let it snow"}})
    assert all(name.startswith("13:") for name in prompt)
    assert prompt["13:4"]["inputs"]["text"] == "Let it snow" and prompt["13:1"]["inputs"]["vae"] == "LIVEditor-tiny (included)"
