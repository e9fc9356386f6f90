"""A core that lacks something is told in one sentence, at one place, for every name that the pack takes from it."""

import ast
import asyncio
import importlib
import sys
from pathlib import Path

import liveditor_isa
import pytest
from comfy_headless import ROOT
from liveditor_isa.comfyui import core
from liveditor_isa.optional import read_toml

OF_CORE = ("comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "node_helpers", "server")
DONE_WITHOUT = {"comfy.ldm.wan.vae.count_cache_layers"}
SHORTER = {
    "comfy.text_encoders.wan.__file__": None,
    "server.PromptServer": None,
    "server.PromptServer.instance.": "server.PromptServer.",
}
"""Beginnings of names that every module has, or that the server sets when it starts, and what stands for them in the table."""
ON_THE_INSTANCE = ("client_id", "prompt_queue", "routes")
PATCHED = (
    "comfy.lora.load_lora",
    "comfy.lora.model_lora_keys_unet",
    "comfy.sd.load_bypass_lora_for_models",
    "comfy.sd.load_lora_for_models",
)
"""Named in strings by `comfyui/lora.py`."""

ENTRIES = list(core.needed())


def is_of_core(module: str) -> bool:
    return module.split(".")[0] in OF_CORE


def names_in(source: str) -> dict[str, set[str]]:
    """Dotted names of core's that a module uses, with the keywords of its calls of core's own, unversioned functions."""
    tree = ast.parse(source)
    named = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level and is_of_core(node.module):
            named |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
        elif isinstance(node, ast.Import):
            own = [each.name for each in node.names if is_of_core(each.name)]
            named |= {name.split(".")[0]: name.split(".")[0] for name in own}
    parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    found = {}
    for node in ast.walk(tree):
        parent, name = parents.get(node), dotted(node, named)
        if name is None or isinstance(parent, ast.Attribute):
            continue
        call = isinstance(parent, ast.Call) and parent.func is node and name.startswith("comfy.")
        found.setdefault(name, set()).update({each.arg for each in parent.keywords} - {None} if call else ())
    return found


def dotted(node, named: dict[str, str]) -> str | None:
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    known = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in named
    return ".".join([named[node.id], *reversed(parts)]) if known else None


def taken() -> dict[str, set[str]]:
    """What the pack's ComfyUI side takes from core, by dotted name, with keywords."""
    found: dict[str, set[str]] = {name: set() for name in PATCHED}
    for path in sorted([*(ROOT / "comfyui").rglob("*.py"), *(ROOT / "nodes").glob("*.py")]):
        for name, keywords in names_in(path.read_text(encoding="utf-8")).items():
            if name not in DONE_WITHOUT and (name := in_the_table(name)):
                found.setdefault(name, set()).update(keywords)
    return found


def in_the_table(name: str) -> str | None:
    name = name.removesuffix(".__init__")
    if name in SHORTER or is_module(name):
        return SHORTER.get(name)
    for beginning, stands_for in SHORTER.items():
        if name.startswith(beginning) and stands_for:
            end = name.removeprefix(beginning)
            return None if end.split(".")[0] in ON_THE_INSTANCE else stands_for + end
    return name


def is_module(name: str) -> bool:
    return isinstance(sys.modules.get(name), type(sys))


def test_this_core_has_all_that_the_table_lists_and_the_table_lists_all_that_the_sources_take():
    assert core.lacking() is None
    listed = {f"{module}.{name}": set(keywords) for module, name, keywords in ENTRIES}
    assert listed == taken()


class Without:
    """`whole`, but for what the dotted `name` names within it."""

    def __init__(self, whole, name: str):
        self._whole, (self._first, _, self._rest) = whole, name.partition(".")

    def __getattr__(self, name: str):
        if name != self._first:
            return getattr(self._whole, name)
        if not self._rest:
            raise AttributeError(name)
        return Without(getattr(self._whole, name), self._rest)


@pytest.mark.parametrize(("module", "name"), [entry[:2] for entry in ENTRIES], ids=[f"{m}.{n}" for m, n, _ in ENTRIES])
def test_each_name_that_is_missing_is_named(module, name, monkeypatch):
    owner, (first, _, rest) = importlib.import_module(module), name.partition(".")
    if rest:
        monkeypatch.setattr(owner, first, Without(getattr(owner, first), rest))
    else:
        monkeypatch.delattr(owner, first)
    with pytest.raises(RuntimeError) as error:
        asyncio.run(liveditor_isa.comfy_entrypoint())
    assert f" has no {module}.{name}, which {core.OLDEST} has: " in str(error.value)
    assert str(error.value).count(". ") == 0, "one sentence"


def holder(module: str, name: str) -> tuple[object, str]:
    """(what the last part of `name` is an attribute of, that part)."""
    owner = importlib.import_module(module)
    *parts, last = name.split(".")
    for part in parts:
        owner = getattr(owner, part)
    return owner, last


@pytest.mark.parametrize(("module", "name", "keywords"), [entry for entry in ENTRIES if entry[2]], ids=lambda each: str(each))
def test_each_keyword_that_a_function_no_longer_takes_is_named(module, name, keywords, monkeypatch):
    owner, last = holder(module, name)
    monkeypatch.setattr(owner, last, lambda first, /, *others: None)
    assert f"has a {module}.{name} without {' and '.join(keywords)}" in core.lacking()
    monkeypatch.setattr(owner, last, lambda *others, **keywords: None)
    assert core.lacking() is None


def test_a_module_that_is_missing_is_named_by_what_is_taken_from_it(monkeypatch):
    monkeypatch.setitem(core.NEEDED, "comfy.no_such_module", "anything")
    assert "has no comfy.no_such_module.anything" in core.lacking()


def test_a_package_that_core_lacks_itself_is_not_called_a_fault_of_its_version(monkeypatch, tmp_path):
    (tmp_path / "module_of_core.py").write_text("import no_such_package", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(core, "NEEDED", {"module_of_core": "anything"})
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        core.lacking()


@pytest.mark.parametrize(
    ("version", "cure"),
    [
        ("0.29.9", "update ComfyUI."),
        ("0.30.0", "update this pack, "),
        ("0.45.2", "update this pack, "),
        (None, "update ComfyUI."),
    ],
)
def test_the_cure_is_to_update_what_is_older(version, cure, monkeypatch):
    import comfyui_version

    if version is None:
        monkeypatch.delattr(comfyui_version, "__version__")
    else:
        monkeypatch.setattr(comfyui_version, "__version__", version)
    monkeypatch.setattr(core, "NEEDED", {"comfy.utils": "no_such_function"})
    assert f"ComfyUI {version or 'of an unknown version'} has no comfy.utils.no_such_function" in core.lacking()
    assert f"{core.OLDEST} has: {cure}" in core.lacking()


def test_the_oldest_version_is_the_one_that_the_registry_is_told():
    told = read_toml(Path(ROOT / "pyproject.toml"))["tool"]["comfy"]["requires-comfyui"]
    assert told == f">={core.OLDEST}"
