"""Checks types in the layers without a host ([tool.mypy] in pyproject.toml), and that their public functions state theirs.

    python scripts/typecheck.py

mypy takes a folder's name for the package's. This package is the repository's root itself, so that mypy is shown links to its
folders under the package's name. What it knows of torch is kept in `.cache`: the first run takes a minute, later ones seconds.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from mypy import api

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache/types"
PACKAGE = "liveditor_isa"
WITHOUT_HOST = ("isa_core", "kernels", "runtime", "checkpoint", "video", "data")


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    link_folders(CACHE / PACKAGE)
    packages = [option for folder in WITHOUT_HOST for option in ("-p", f"{PACKAGE}.{folder}")]
    # mypy finds the package there and prints paths that begin with its name.
    os.chdir(CACHE)
    report, errors, status = api.run(["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", "mypy", *packages])
    print(re.sub(f"^{PACKAGE}/", "", report, flags=re.MULTILINE), end="")
    print(errors, file=sys.stderr, end="")
    untold = [line for folder in WITHOUT_HOST for path in sorted((ROOT / folder).rglob("*.py")) for line in unstated(path)]
    for line in untold:
        print(line)
    return 1 if status or untold else 0


def link_folders(to: Path):
    """Links in `to` to this package's folders and modules, without those of removed files and of another checkout."""
    to.mkdir(parents=True, exist_ok=True)
    wanted = {path.name: path for path in [*ROOT.glob("*.py"), *(init.parent for init in ROOT.glob("*/__init__.py"))]}
    for link in to.iterdir():
        if link.name not in wanted or link.resolve() != wanted[link.name]:
            link.unlink()
    for name, path in wanted.items():
        if not (to / name).is_symlink():
            (to / name).symlink_to(path)


def unstated(path: Path) -> Iterator[str]:
    """A line for each public function that leaves out the type of a parameter or of its result. Triton's have no types."""
    for function in _public_functions(ast.parse(path.read_text(encoding="utf-8")).body):
        arguments = function.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        missing = [name.arg for name in named if name.annotation is None and name.arg not in ("self", "cls")]
        if function.returns is None:
            missing.append("its result")
        if missing:
            where = f"{path.relative_to(ROOT)}:{function.lineno}"
            yield f"{where}: error: {function.name} states no type of {', '.join(missing)}"


def _public_functions(body: list[ast.stmt]) -> Iterator[ast.FunctionDef]:
    for statement in body:
        if isinstance(statement, ast.ClassDef) and not statement.name.startswith("_"):
            yield from _public_functions(statement.body)
        elif isinstance(statement, ast.FunctionDef) and not statement.name.startswith("_"):
            if not any("jit" in ast.unparse(decorator) for decorator in statement.decorator_list):
                yield statement


if __name__ == "__main__":
    sys.exit(main())
