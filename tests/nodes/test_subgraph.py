"""A workflow that holds a subgraph runs on a real server, as `scripts/demo.py --workflow` sends it."""

import json

import av
import pytest
from comfy_headless import COMFYUI, ROOT
from examples import video_file
from PIL import Image
from workflow_api import Workflow

TITLE = "Edit video (LIVEditor + ISA)"


@pytest.fixture
def saved() -> dict:
    """Load Video, our subgraph, Save Video."""
    workflow = json.loads((ROOT / f"subgraphs/{TITLE}.json").read_text(encoding="utf-8"))
    [node] = workflow["nodes"]
    next(slot for slot in node["inputs"] if slot["name"] == "video")["link"] = 1
    video = {"name": "file", "type": "COMBO", "widget": {"name": "file"}, "link": None}
    workflow["nodes"] += [
        {
            "id": 1,
            "type": "LoadVideo",
            "inputs": [video],
            "outputs": [{"name": "VIDEO", "type": "VIDEO"}],
            "widgets_values": ["x"],
        }
    ]
    workflow["links"] = [[1, 1, 0, node["id"], 0, "VIDEO"]]
    return workflow


def test_it_runs_and_its_promoted_widgets_are_set(server, info, saved):
    workflow = Workflow(saved, info)
    prompt = workflow.prompt({"LoadVideo": {"file": "bigbuckbunny.mp4"}, TITLE: {"length": 5, "steps": 1}})
    run = server.run(prompt, saved)
    assert run.error is None, run.error
    assert all(workflow.title(workflow.node(node)) for node in run.executed)
    with av.open(str(video_file(server, run))) as container:
        assert sum(1 for _ in container.decode(video=0)) == 5


def test_a_size_a_reference_and_a_mask_come_from_outside(server, info, saved, tmp_path):
    picture = tmp_path / "reference.png"
    Image.new("RGBA", (64, 48), (200, 40, 40, 128)).save(picture)
    server.add_input(picture)
    host = saved["nodes"][0]
    slots = [slot["name"] for slot in host["inputs"]]
    for link, (output, name) in enumerate((("IMAGE", "reference"), ("MASK", "mask")), 2):
        host["inputs"][slots.index(name)]["link"] = link
        saved["links"].append([link, 2, link - 2, host["id"], slots.index(name), output])
    image = {"name": "image", "type": "COMBO", "widget": {"name": "image"}, "link": None}
    outputs = [{"name": name, "type": name} for name in ("IMAGE", "MASK")]
    saved["nodes"] += [{"id": 2, "type": "LoadImage", "inputs": [image], "outputs": outputs, "widgets_values": [picture.name]}]
    small = {"width": 160, "height": 96, "length": 5, "steps": 1}
    prompt = Workflow(saved, info).prompt({"LoadVideo": {"file": "bigbuckbunny.mp4"}, TITLE: small})
    [references] = [node["inputs"] for node in prompt.values() if node["class_type"] == "LIVEditorInContextReferences"]
    assert (references["size.width"], references["size.height"], references["references.reference_0"]) == (160, 96, ["2", 0])
    run = server.run(prompt, saved)
    assert run.error is None, run.error
    # With a mask it is the source's whole frame.
    with av.open(str(video_file(server, run))) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (1280, 720)


def test_cores_own_blueprints_are_taken_apart(info):
    """Every node's inputs come from nodes that are there."""
    count = 0
    for path in sorted((COMFYUI / "blueprints").glob("*.json")):
        workflow = json.loads(path.read_text(encoding="utf-8"))
        try:
            prompt = Workflow(workflow, info).prompt()
        except ValueError as error:  # nodes of services, which this server was started without
            assert "does not know these nodes" in str(error)
            continue
        count += 1
        sources = [value for node in prompt.values() for value in node["inputs"].values() if isinstance(value, list)]
        assert all(source[0] in prompt for source in sources), path
    assert count > 50
