"""A file of options: TOML, a table for each command, with the options' own names."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..optional import read_toml
from ..pipelines import EXTRA


def arguments_from(
    path: Path, command: str, commands: list[str], parser: argparse.ArgumentParser, given: dict | None = None
) -> list[str]:
    """What the file says for `command`, "evaluate.score" for a step of one, as arguments of its parser. given: options that have a value,
    which a list in the file does not add to.

    Raises ValueError in one sentence for a file that says something else.
    """
    tables = read_toml(path, EXTRA)
    for name, table in tables.items():
        if name not in commands or not isinstance(table, dict):
            raise ValueError(
                f"{path}: {name!r} is no table of a command; there are {', '.join(f'[{each}]' for each in commands)}."
            )
    name, _, step = command.partition(".")
    chosen, found = tables.get(name, {}), []
    if step:
        if loose := [key for key, value in chosen.items() if not isinstance(value, dict)]:
            raise ValueError(f"{path}, [{name}]: {loose[0]!r} belongs into the table of a step, such as [{command}].")
        chosen = chosen.get(step, {})
    for name, value in chosen.items():
        arguments = _arguments_of(name, value, parser, path, command)
        found += [] if (given or {}).get(name.replace("-", "_")) else arguments
    return found


def _arguments_of(name: str, value, parser: argparse.ArgumentParser, path: Path, command: str) -> list[str]:
    option = f"--{name.replace('_', '-')}"
    action = next((each for each in parser._actions if option in each.option_strings), None)
    if action is None or option in ("--config", "--help"):
        raise ValueError(f"{path}, [{command}]: there is no option {name!r}; liveditor {command} --help lists them.")
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise ValueError(f"{path}, [{command}]: {name} must be true or false; got {value!r}.")
        off = f"--no-{option[2:]}"
        return [option] if value else [off] if off in action.option_strings else []
    return [f"{option}={each}" for each in (value if isinstance(value, list) else [value])]
