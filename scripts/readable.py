"""python scripts/readable.py FILE...: whether JSON, TOML and YAML files can be read, and no text file holds leftovers.

Leftovers are marks of a conflict, spaces at the end of a line, and an end without a newline. JSON files are written by
programs, which end them as they like.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

try:
    import tomllib
except ModuleNotFoundError:  # before Python 3.11; pytest brings it there
    import tomli as tomllib

READ = {".json": json.loads, ".toml": tomllib.loads, ".yaml": yaml.safe_load, ".yml": yaml.safe_load}


def problems(path: Path) -> Iterator[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        yield f"{path}: {error}"
        return
    if read := READ.get(path.suffix):
        try:
            read(text)
        except (ValueError, yaml.YAMLError) as error:
            yield f"{path}: {error}"
    if path.suffix == ".json":
        return
    if text and not text.endswith("\n"):
        yield f"{path}: no newline at its end"
    for number, line in enumerate(text.split("\n"), 1):
        if line != line.rstrip():
            yield f"{path}:{number}: spaces at the end of the line"
        if re.match(r"(<{7}|>{7})( |$)", line):
            yield f"{path}:{number}: mark of a conflict"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="*", metavar="FILE")
    found = [problem for path in parser.parse_args().files for problem in problems(path)]
    print("\n".join(found), end="\n" if found else "")
    sys.exit(bool(found))
