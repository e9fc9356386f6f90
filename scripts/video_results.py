"""The options of the scripts that try many videos, and the file of their result."""

from __future__ import annotations

import argparse
import datetime
import json
from pathlib import Path


def options(description: str, what: str, default: int) -> argparse.Namespace:
    """The command line's: `count` of `what`, `seed` and `out`. The name of the script and `what` become its `command`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(f"--{what}", type=int, default=default, dest="count")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="the JSON to write")
    given = parser.parse_args()
    given.command = f"python scripts/{parser.prog} --{what} {given.count} --seed {given.seed}"
    return given


def save(given: argparse.Namespace, result: dict):
    """Writes the result with its command and date, if a file was asked for."""
    if given.out:
        about = {"command": given.command, "date": str(datetime.date.today())}
        given.out.write_text(json.dumps({**about, **result}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
