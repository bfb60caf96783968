"""Single options: ranges that stand in their types, and how text becomes a value of a type.

    width: Count = 256

is a whole number, 1 or more; anything else in a file or on the command line is a ConfigError that says so.
"""

from __future__ import annotations

import difflib
import math
import re
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

_NONE = ("none", "null", "~", "")
_SWITCH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_TYPES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


class ConfigError(ValueError):
    """An option that does not exist or has a value it cannot have; the message is one sentence."""


@dataclass(frozen=True)
class Range:
    """The values that an option may have, as part of its type: `Annotated[int, Range(...)]`."""

    contains: Callable[[Any], bool]
    text: str | Callable[[], str]


def one_of(names: Collection[str]) -> Range:
    """A name in a registry, to which plug-ins may add."""
    return Range(lambda name: name in names, lambda: f"one of {', '.join(names)}")


Count = Annotated[int, Range(lambda value: value >= 1, "of 1 or more")]
CountOrZero = Annotated[int, Range(lambda value: value >= 0, "of 0 or more")]
Positive = Annotated[float, Range(lambda value: value > 0, "above 0")]
NotNegative = Annotated[float, Range(lambda value: value >= 0, "of 0 or more")]
BelowOne = Annotated[float, Range(lambda value: 0 <= value < 1, "of 0 or more and below 1")]
Share = Annotated[float, Range(lambda value: 0 <= value <= 1, "from 0 to 1")]
ShareRange = Annotated[tuple[float, float], Range(lambda r: 0 <= r[0] <= r[1] <= 1, "from 0 to 1, the lower first")]


def options(section: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, type, value) of every option of a section, and of the sections inside it."""
    hints = get_type_hints(type(section), include_extras=True)
    for field in fields(section):
        name, value = prefix + field.name, getattr(section, field.name)
        if is_dataclass(value):
            yield from options(value, f"{name}.")
        else:
            yield name, hints[field.name], value


def leaves(section: Any) -> dict[str, Any]:
    """Dotted name -> value of every option."""
    return {name: value for name, _, value in options(section)}


def read(name: str, value: Any, source: str, hints: Mapping[str, Any]) -> Any:
    """The value of an option; ConfigError if there is no such option among `hints` or it cannot have this value.

    value: text, a list of texts, or of the option's type; source: where it was set, for errors.
    """
    if name not in hints:
        inside = ", ".join(option for option in hints if option.startswith(f"{name}."))
        if not inside:
            meant = did_you_mean(name, hints) or "; `prolap train --help` lists all."
            raise ConfigError(f"unknown option {name!r} {source}{meant}")
        if value in ("", None):  # an empty section
            return None
        raise ConfigError(f"{name}: got a single value {source}, want a section ({inside}).")
    try:
        return convert(value, hints[name])
    except (ValueError, KeyError):
        got = "no value" if value == [] else repr(value)
        raise ConfigError(f"{name}: got {got} {source}, want {describe(hints[name])}.") from None


def check(config: Any) -> None:
    """ConfigError for a value that its option cannot have: in Python nothing else stops one."""
    for name, hint, value in options(config):
        read(name, value, "in the configuration", {name: hint})


def did_you_mean(name: str, known: Collection[str]) -> str:
    """`; did you mean optim.lr?` if names are alike, by their last parts or else as a whole."""
    last = {option: option.rpartition(".")[2] for option in known}
    alike = difflib.get_close_matches(name.rpartition(".")[2], last.values(), n=1, cutoff=0.7)
    close = [option for option in known if last[option] in alike]
    close = difflib.get_close_matches(name, close, cutoff=0) or difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def convert(value: Any, hint: Any) -> Any:
    """Text, a list of texts or a typed value as a type; ValueError or KeyError if it cannot be or is out of range."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        number = convert(value, inner[0])
        if not inner[1].contains(number):
            raise ValueError
        return number
    if origin is tuple:
        parts = value if isinstance(value, list | tuple) else re.split(r"[,\s]+", str(value).strip("[]() "))
        hints = inner[:1] * len(parts) if inner[-1] is Ellipsis else inner
        return tuple(convert(part, kind) for part, kind in zip(parts, hints, strict=True))
    if hint is bool and value == []:  # a switch that is named alone
        return True
    if isinstance(value, list | tuple):
        raise ValueError
    text = "null" if value is None else str(value)
    if origin in (Union, types.UnionType):  # X | None
        return None if text.strip().lower() in _NONE else convert(value, inner[0])
    if origin is Literal:
        return {choice: choice for choice in inner}[text]
    if hint is bool:
        return _SWITCH[text.lower()]
    if hint is float and not math.isfinite(float(text)):
        raise ValueError
    return hint(text)


def describe(hint: Any) -> str:
    """What a type wants, for error messages."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        text = inner[1].text
        return f"{describe(inner[0])} {text}" if isinstance(text, str) else text()
    if origin is Literal:
        return f"one of {', '.join(inner)}"
    if origin in (Union, types.UnionType):
        return f"{describe(inner[0])}, or none"
    if origin is tuple:
        return "names" if inner[-1] is Ellipsis else f"{len(inner)} numbers"
    return _TYPES[hint]
