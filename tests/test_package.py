"""The pack as a package: what importing it needs, and that what ComfyUI looks for is there."""

import ast
import json
import re
import sys

import liveditor_isa
import pytest
from comfy_headless import CLIP, ROOT
from liveditor_isa.checkpoint import included
from liveditor_isa.runtime.live import USUAL_REFRESH
from node_inputs import all_inputs
from without_packages import run_without

try:
    import tomllib
except ModuleNotFoundError:  # before Python 3.11; pytest brings it there
    import tomli as tomllib

PACKAGES = (
    "batch",
    "checkpoint",
    "comfyui",
    "command",
    "curation",
    "data",
    "evaluation",
    "isa_core",
    "kernels",
    "nodes",
    "pipelines",
    "runtime",
    "serve",
    "training",
    "video",
)
HEADLESS = ("batch", "command", "curation", "evaluation", "pipelines", "serve", "__main__.py")
"""Without ComfyUI, with packages that the nodes never need."""

SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))] + [
    ROOT / "__init__.py",
    ROOT / "__main__.py",
]
WORKFLOWS = [*sorted((ROOT / "example_workflows").glob("*.json")), *sorted((ROOT / "subgraphs").glob("*.json"))]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_pack_imports_with_nothing_installed():
    """ComfyUI imports the folder first; whatever is missing must not take other packs down."""
    everything = {"torch", "triton", "comfy", "comfy_api", "kornia", "imageio_ffmpeg", "safetensors", "tqdm", "numpy"}
    run_without(everything, "import liveditor_isa; print(liveditor_isa.WEB_DIRECTORY)")


@pytest.mark.slow
def test_the_core_runs_without_comfyui_triton_and_optional_parts():
    code = """
import torch
from liveditor_isa.isa_core import ISAConfig, TokenLayout, in_context_sparse_attention
q = torch.randn(1, 200, 2, 64)
layout = TokenLayout(target=100, context=(100,))
out, stats = in_context_sparse_attention(q, q, q, layout=layout, config=ISAConfig(), return_stats=True)
print(out.shape == q.shape, stats.backend)
"""
    absent = {"triton", "comfy", "comfy_api", "kornia", "imageio_ffmpeg", "safetensors", "folder_paths"}
    assert run_without(absent, code).split() == ["True", "torch"]


@pytest.mark.slow
def test_the_command_line_converts_without_comfyui(models, tmp_path):
    code = f"""
from liveditor_isa.command import main
assert main(["convert", {str(models / "diffusion_models/liveditor_tiny.bin")!r}, {str(tmp_path / "out.safetensors")!r}]) == 0
"""
    run_without({"comfy", "comfy_api", "folder_paths", "triton", "kornia", "diffusers", "av"}, code)


@pytest.mark.slow
def test_a_video_file_is_read_without_comfyui(sample_video):
    code = f"""
from liveditor_isa.video.clip import open_clip
from liveditor_isa.video.source import FileSource
clip = open_clip(FileSource({str(sample_video)!r}), 3, 0)
(chunk,) = clip.chunks()
print(*chunk.shape, clip.fps, clip.audio["sample_rate"] > 0)
"""
    absent = {"comfy", "comfy_api", "comfy_execution", "folder_paths", "nodes", "triton", "kornia", "safetensors"}
    assert run_without(absent, code).split() == ["3", "720", "1280", "3", "25", "True"]


def imported(path) -> list[tuple[int, str]]:
    """(level, module) of each import; level 0 is absolute."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(0, name.name) for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or ""))
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_keep_to_the_architecture(path):
    """ComfyUI has modules called `nodes`, PyPI one called `kernels`: ours are only ever imported relatively."""
    package = path.relative_to(ROOT).parts[0]
    absolute = {name.split(".")[0] for level, name in imported(path) if level == 0}
    assert not absolute & {*PACKAGES, "liveditor_isa"}
    if package in HEADLESS or path.relative_to(ROOT).parts[:2] == ("training", "editor"):
        assert not {name for name in absolute if name.startswith("comfy")} | absolute & {"folder_paths", "node_helpers"}
    else:
        within = {name.split(".")[0] for level, name in imported(path) if level == len(path.relative_to(ROOT).parts)}
        assert not within & {*HEADLESS} and not absolute & {"diffusers", "accelerate", "peft", "ray"}
    if package in ("isa_core", "kernels"):
        assert absolute <= {*sys.stdlib_module_names, "torch", "triton"}
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not calls & {"eval", "exec"}


def test_every_package_is_shipped_and_torch_is_nobodys_dependency():
    shipped = {name.removeprefix("liveditor_isa").lstrip(".") for name in PYPROJECT["tool"]["setuptools"]["packages"]}
    folders = {path.parent.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert shipped == {"", *(".".join(folder.parts) for folder in folders)}
    required = {line.split(">")[0].split("=")[0] for line in PYPROJECT["project"]["dependencies"]}
    assert not required & {"torch", "triton", "torchvision"}
    # ComfyUI-Manager reads this file only.
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == PYPROJECT["project"]["dependencies"]
    assert "ComfyUI" not in PYPROJECT["project"]["name"]


def test_nodes_are_documented_where_users_look(schemas):
    assert len(schemas) == 4
    for schema in schemas:
        page = ROOT / "web/docs" / f"{schema.node_id}.md"
        text = page.read_text(encoding="utf-8")
        assert schema.description and len(schema.search_aliases) >= 3 and schema.category == "LIVEditor"
        for entry in all_inputs(schema.inputs):
            assert entry.tooltip, f"{schema.node_id}.{entry.id} has no tooltip"
            assert entry.id in text, f"{page.name} does not mention {entry.id}"
        assert all(output.tooltip for output in schema.outputs)


@pytest.mark.parametrize("path", sorted((ROOT / "example_workflows").glob("*.json")), ids=lambda path: path.stem)
def test_example_workflows_need_nothing_but_us_and_core(path, schemas):
    saved = json.loads(path.read_text(encoding="utf-8"))
    assert path.with_suffix(".jpg").read_bytes()[:3] == b"\xff\xd8\xff"
    ours = {schema.node_id for schema in schemas}
    offered = set()
    for node in saved["nodes"]:
        if node["type"] == "MarkdownNote":
            continue
        assert node["properties"]["cnr_id"] == ("liveditor-isa" if node["type"] in ours else "comfy-core")
        offered |= {model["name"] for model in node["properties"].get("models", [])}
        files = {value for value in node.get("widgets_values") or [] if str(value).endswith((".safetensors", ".bin"))}
        assert files <= offered, f"{node['type']} does not say where {files - offered} come from"
    assert offered or any(included.NAME in (node.get("widgets_values") or []) for node in saved["nodes"])


def preset(name: str) -> list[float]:
    """keep_ratio and exact_ratio of one of the page's presets."""
    script = (ROOT / "web/isa_presets.js").read_text(encoding="utf-8")
    values = re.search(rf"\b{name}: \{{.*?values: \{{(.*?)\}}", script, re.S)[1]
    return [float(re.search(rf"{ratio}: ([\d.]+)", values)[1]) for ratio in ("keep_ratio", "exact_ratio")]


def graphs(path) -> list[dict]:
    """A saved workflow, and the subgraphs in it."""
    saved = json.loads(path.read_text(encoding="utf-8"))
    return [saved, *((saved.get("definitions") or {}).get("subgraphs") or [])]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_the_included_model_is_offered_with_what_serves_it(path):
    """The ratios of the preset Balanced: Paper, made for models that were trained with ISA, loses the scene (docs/fidelity.md)."""
    nodes = [node for graph in graphs(path) for node in graph["nodes"]]
    values = [list(node.get("widgets_values") or []) for node in nodes]
    if not any(included.NAME in each for each in values):
        assert not any("LIVEditor-tiny" in str(each) for node, each in zip(nodes, values) if node["type"] != "MarkdownNote")
        return
    named = [(node["type"], each) for node, each in zip(nodes, values)]
    assert {included.NAME} == {value for kind, each in named if kind == "LIVEditorLoad" for value in each[:3]}
    for kind, each in named:
        if kind == "LIVEditorAttachISA":
            enabled, keep, routing, exact, sharpness, tail, *_ = each
            assert [keep, exact] == preset("Balanced")
            assert [enabled, routing, sharpness, tail] == [True, "segment_top_k", "variance", "drop"]
        if kind == "KSampler":
            assert each[3] == 1.5, "cfg"
    # What stands on a subgraph's node goes before what is in it.
    for node in nodes:
        shown = [slot["name"] for slot in node.get("inputs", []) if "widget" in slot]
        if node["type"] == graphs(path)[-1].get("id") and "exact_ratio" in shown:
            on_node = dict(zip(shown, node["widgets_values"]))
            assert (on_node["isa"], on_node["exact_ratio"], on_node["cfg"]) == (True, preset("Balanced")[1], 1.5)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_edit_the_clip_that_comes_with_the_pack(path):
    loaders = {"LoadVideo": CLIP.name, "LoadVideoDataSetFromFolder": "liveditor_clips"}  # web/sample_clip.js brings both
    nodes = [node for graph in graphs(path) for node in graph["nodes"] if node["type"] in loaders]
    assert [node["widgets_values"][0] for node in nodes] == [loaders[node["type"]] for node in nodes]
    assert len(nodes) == (path.parent.name != "subgraphs")


def test_the_clip_is_small_and_says_whose_it_is():
    av = pytest.importorskip("av")
    assert CLIP.stat().st_size < 300_000
    with av.open(str(CLIP)) as clip:
        video, sound = clip.streams.video[0], clip.streams.audio[0]
        assert (video.codec_context.name, sound.codec_context.name) == ("h264", "aac")
        assert (video.width, video.height, video.frames, video.average_rate) == (640, 360, 50, 25)
        assert "Blender Foundation, CC BY 3.0" in clip.metadata["copyright"]
    assert CLIP.name in (ROOT / "README.md").read_text(encoding="utf-8").split("## Sources")[1]
    assert f'"{CLIP.name}"' in (ROOT / "web/sample_clip.js").read_text(encoding="utf-8")


def test_context_reuse_is_on_by_default(schemas):
    attach = next(schema for schema in schemas if schema.node_id == "LIVEditorAttachISA")
    inputs = {each.id: each for each in all_inputs(attach.inputs)}
    assert inputs["context_refresh"].default == USUAL_REFRESH == 1


def test_the_version_is_the_same_everywhere():
    version = PYPROJECT["project"]["version"]
    assert liveditor_isa.__version__ == version
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()
    for path in (ROOT / "example_workflows").glob("*.json"):
        for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]:
            assert node["properties"].get("cnr_id") != "liveditor-isa" or node["properties"]["ver"] == version
