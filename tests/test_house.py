"""How the tests are kept: shared parts lie in tests/support and in conftest.py, and hide nobody's modules."""

import ast
import re
import sys
from pathlib import Path

import pytest
from comfy_headless import COMFYUI, ROOT

TESTS = Path(__file__).parent
MODULES = sorted(TESTS.rglob("*.py"))
COMFYUIS = {"alembic_db", "api_server", "app", "blueprints", "comfy", "comfy_api", "comfy_api_nodes", "comfy_config"}
COMFYUIS |= {"comfy_execution", "comfy_extras", "custom_nodes", "execution", "folder_paths", "latent_preview", "main"}
COMFYUIS |= {"middleware", "node_helpers", "nodes", "protocol", "server", "utils"}
"""Those of its top folder that Python can import, where there is no ComfyUI to look at."""


def imported(path: Path) -> set[str]:
    """Names of modules, whole and without what is behind the first dot."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names | {name.split(".")[0] for name in names}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(TESTS).as_posix())
def test_no_test_imports_a_test(path):
    tests = {path.stem for path in MODULES if path.name.startswith("test_")} | {"conftest", "tests"}
    assert not imported(path) & tests
    assert not re.search(r"noqa: [A-Z0-9, ]*F811", path.read_text(encoding="utf-8").replace(r"noqa: [A-Z0-9, ]*F811", ""))


def test_shared_modules_hide_nobody_elses():
    """They are imported by their bare names, before ComfyUI's folder is."""
    ours = {path.stem for folder in (TESTS / "support", ROOT / "scripts") for path in folder.glob("*.py")}
    packs = {
        path.name.removesuffix(".py") for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    theirs = COMFYUIS | {path.name.removesuffix(".py") for path in (COMFYUI.iterdir() if COMFYUI.exists() else ())}
    assert not ours & (packs | theirs | set(sys.stdlib_module_names))
