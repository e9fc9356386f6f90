"""Checks imports: the contracts in pyproject.toml ([tool.importlinter]), no cycle, no needless import within a function.

    python scripts/layers.py [--root FOLDER]

An import within a function counts like any other for contracts and cycles. It is for packages that are slow to import, or
missing where they are not needed, and for nothing else.

import-linter finds a package through Python's import path. This package is the repository's root itself, so that its modules
are first copied into an empty folder under the package's name.
"""

from __future__ import annotations

import argparse
import ast
import graphlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grimp
from importlinter.cli import lint_imports

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "liveditor_isa"

OPTIONAL = {"av", "comfy_api", "diffusers", "fastapi", "kornia", "ray", "safetensors", "scipy", "transformers", "triton"}
"""The packages that an import within a function may be for."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT, metavar="FOLDER", help="the repository, this one unless given")
    root = parser.parse_args().root
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / PACKAGE
        copy_modules(root, package)
        sys.path.insert(0, folder)
        broken = lint_imports(config_filename=str(root / "pyproject.toml"), no_cache=True, no_logo=True)
        graph = grimp.build_graph(PACKAGE, include_external_packages=True, cache_dir=None)
        cycle, needless = find_cycle(graph), needless_late_imports(package, graph)
    if cycle:
        print("Import cycle: " + "\n  imports ".join(cycle))
    for where, module in needless:
        print(f"Import within a function, of nothing slow or optional: {where} {module}")
    return 1 if broken or cycle or needless else 0


def copy_modules(root: Path, to: Path):
    """The package's modules alone: what stands beside `pyproject.toml` and has an `__init__.py`, and the root's own files."""
    packages = [path.parent for path in root.glob("*/__init__.py")]
    for path in [*root.glob("*.py"), *(module for package in packages for module in package.rglob("*.py"))]:
        target = to / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def find_cycle(graph: grimp.ImportGraph) -> list[str] | None:
    imported = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    try:
        graphlib.TopologicalSorter(imported).prepare()
    except graphlib.CycleError as error:
        # It lists the imported module before the one that imports it.
        return error.args[1][::-1]
    return None


def needless_late_imports(package: Path, graph: grimp.ImportGraph) -> list[tuple[str, str]]:
    """(file:line, module) of imports within functions through which no optional package is reached."""
    return [
        (f"{path.relative_to(package)}:{line}", module)
        for path in sorted(package.rglob("*.py"))
        for line, module in _late_imports(path, package, graph)
        if not graph.find_upstream_modules(module) & OPTIONAL
    ]


def _late_imports(path: Path, package: Path, graph: grimp.ImportGraph) -> Iterator[tuple[int, str]]:
    parts = path.relative_to(package.parent).parts
    for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = ".".join([*parts[: -node.level], *filter(None, [node.module])])
                for name in node.names:
                    yield node.lineno, f"{base}.{name.name}" if f"{base}.{name.name}" in graph.modules else base


if __name__ == "__main__":
    sys.exit(main())
