"""Dataclasses of plain values, as TOML and JSON hold them, with a sentence for what is wrong."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from types import UnionType

_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", dict: "a table"}


def built(kind, values, where: str):
    """`kind`, a dataclass, of a table. where: its name in sentences."""
    if not isinstance(values, dict):
        raise ValueError(f"{where} must be a table; got {values!r:.60}.")
    types = typing.get_type_hints(kind)
    if unknown := [name for name in values if name not in types]:
        raise ValueError(f"There is no {where}{'.' * bool(where)}{unknown[0]}; there are {', '.join(types)}.")
    needed = [each.name for each in dataclasses.fields(kind) if each.default is each.default_factory is dataclasses.MISSING]
    if missing := [name for name in needed if name not in values]:
        raise ValueError(f"{where or 'The recipe'} lacks {missing[0]}.")
    return kind(**{name: _value(types[name], value, f"{where}.{name}".lstrip(".")) for name, value in values.items()})


def _value(kind, value, where: str):
    """A value of the annotation `kind`."""
    if isinstance(kind, UnionType):
        if value is None:
            return None
        kind = typing.get_args(kind)[0]
    if dataclasses.is_dataclass(kind):
        return built(kind, value, where)
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where} must be a list; got {value!r:.60}.")
        of = typing.get_args(kind)
        if of[-1] is not Ellipsis and len(of) != len(value):
            raise ValueError(f"{where} must be a list of {len(of)}; got {value!r:.60}.")
        return tuple(_value(of[0], each, where) for each in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or isinstance(value, bool) and kind is not bool:
        raise ValueError(f"{where} must be {_NAMES[kind]}; got {value!r:.60}.")
    return value


def one_of(name: str, value: str, choices: Sequence[str]):
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}.")


def at_least(name: str, value: int, least: int):
    if value < least:
        raise ValueError(f"{name} must be {least} or more; got {value}.")


def between(name: str, value: float, low: float, high: float):
    if not low <= value <= high:
        raise ValueError(f"{name} must be from {low:g} to {high:g}; got {value:g}.")
