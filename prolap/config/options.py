"""Every option by its dotted name: its type, the text that means it, and the values it may have."""

from __future__ import annotations

import difflib
import math
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from prolap.config import BaseConfig

_NONE = ("none", "null", "~", "")
BEST_METRICS = [f"{name}_{way}" for name in ("r1", "r5", "r10", "map10") for way in ("t2a", "a2t", "mean")]
SWITCH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_WANTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "1 or more": (
        lambda value: value >= 1,
        "batch_size log_every eval_every checkpoint_every optim.accumulate threads data.clips data.dev_clips "
        "data.test_clips data.sample_rate data.mels data.window data.hop model.width model.dim model.max_tokens mix.levels "
        "safety.max_skipped",
    ),
    "0 or more": (
        lambda value: value >= 0,
        "seed data.seed steps patience workers overfit mask.audio_copies mask.text_copies optim.weight_decay optim.scale_lr "
        "optim.logvar_lr optim.audio_lr optim.text_lr optim.clip optim.warmup_epochs optim.chunk safety.min_spread "
        "data.min_seconds data.augment.gain_db data.augment.noise_db data.augment.time_masks data.augment.time_width "
        "data.augment.band_masks data.augment.band_width",
    ),
    "a share from 0 to 1": (
        lambda value: 0 <= value <= 1,
        "mask.ratio mask.share mix.share optim.warmup safety.max_saturated data.augment.shift",
    ),
    "more than 0": (
        lambda value: value > 0,
        "optim.lr epochs data.seconds data.eval_seconds model.scale_init model.scale_max model.scale_min",
    ),
    "two numbers from 0 to 1, the lower first": (lambda value: 0 <= value[0] <= value[1] <= 1, "mix.alpha"),
    "a name such as r1_mean or map10_t2a": (lambda value: value in BEST_METRICS, "best_metric"),
}


class ConfigError(ValueError):
    """An option that does not exist or has a value it cannot have; the message is one sentence."""


def options(section: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted name -> type, of all below a section; of a section in it, its dataclass."""
    known: dict[str, Any] = {}
    for name, hint in get_type_hints(type(section)).items():
        value = getattr(section, name)
        known[prefix + name] = type(value) if is_dataclass(value) else hint
        if is_dataclass(value):
            known |= options(value, f"{prefix}{name}.")
    return known


def hint_of(key: str, source: str, known: Mapping[str, Any]) -> Any:
    """The type of an option among `known`; an unknown name is a ConfigError that suggests the nearest one."""
    if key in known and not is_dataclass(known[key]):
        return known[key]
    names = [name for name, hint in known.items() if not is_dataclass(hint)]
    if key in known:
        inside = ", ".join(name for name in names if name.startswith(f"{key}."))
        raise ConfigError(f"{key}: got a single value {source}, want a section ({inside}).")
    last = key.rpartition(".")[2]
    close = [name for name in names if name.rpartition(".")[2] == last][:3]
    close = close or difflib.get_close_matches(key, names, n=1, cutoff=0.6)
    close = close or [name for name in names if difflib.get_close_matches(last, [name.rpartition(".")[2]], cutoff=0.7)]
    hint = f"; did you mean {' or '.join(close[:3])}?" if close else "; `prolap train --help` lists all."
    raise ConfigError(f"unknown option {key!r} {source}{hint}")


def leaves(section: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted name -> value of every option."""
    found: dict[str, Any] = {}
    for field in fields(section):
        value, key = getattr(section, field.name), prefix + field.name
        found |= leaves(value, f"{key}.") if is_dataclass(value) else {key: value}
    return found


def convert(key: str, value: Any, hint: Any, source: str) -> Any:
    """Text (or a typed value, taken as its text) to the type of the field."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        some = next(kind for kind in inner if kind is not type(None))
        return None if text.strip().lower() in _NONE else convert(key, value, some, source)
    if origin is tuple:
        parts = value if isinstance(value, list | tuple) else re.split(r"[,\s]+", text.strip("[]() "))
        if len(parts) == len(inner):
            return tuple(convert(key, part, kind, source) for part, kind in zip(parts, inner, strict=True))
    elif not isinstance(value, list | tuple):
        try:
            return _scalar(text, hint)
        except (ValueError, KeyError):
            pass
    raise ConfigError(f"{key}: got {value!r} {source}, want {describe(hint)}.")


def _scalar(text: str, hint: Any) -> Any:
    if get_origin(hint) is Literal:
        return {choice: choice for choice in get_args(hint)}[text]
    if hint is bool:
        return SWITCH[text.lower()]
    number = hint(text)
    if hint is float and not math.isfinite(number):
        raise ValueError
    return number


def describe(hint: Any) -> str:
    """What a type wants, for error messages."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(inner)}"
    if origin in (Union, types.UnionType):
        return " or ".join("none" if kind is type(None) else describe(kind) for kind in inner)
    if origin is tuple:
        return f"{len(inner)} numbers"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[hint]


def check(config: BaseConfig, sources: Mapping[str, str]) -> None:
    """Raise ConfigError for the first value outside its range; `sources` says where an option was set."""
    values = leaves(config)
    for what, (holds, names) in _WANTED.items():
        for key in names.split():
            if values[key] is not None and not holds(values[key]):
                raise ConfigError(f"{key}: got {values[key]} {sources.get(key, 'by default')}, want {what}.")
