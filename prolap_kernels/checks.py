"""Validation of arguments. Every error is one sentence that names the argument, what it must be, and what came."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from numbers import Integral, Real
from typing import Any, TypeVar

import torch
from torch import Tensor

from .gaussian import Gaussian

T = TypeVar("T")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32)
"""Types of pair ids: those that int64 holds."""
LARGEST = torch.finfo(torch.float32).max
SCALAR = "a finite number or a real tensor of one element"
LONGEST = 60
"""Characters of a value, or bits of an integer, that an error prints."""


def wrong(argument: str, wanted: str, value: object, kind: type[Exception] = TypeError) -> Exception:
    """The error of every check here: what the argument must be, and briefly what came, never a tensor's values."""
    return kind(f"{argument} must be {wanted}, got {_brief(value)}")


def _brief(value: object) -> str:
    if isinstance(value, Tensor):
        if value.is_nested:
            return "a nested tensor"
        layout = "" if value.layout is torch.strided else f"{str(value.layout).removeprefix('torch.')} "
        return f"a {layout}{value.dtype} tensor of shape {list(value.shape)}"
    if isinstance(value, int) and value.bit_length() > LONGEST:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, (torch.dtype, torch.device)):
        return str(value)
    if value is None or isinstance(value, (str, int, float, complex, torch.Size)):
        text = repr(list(value) if isinstance(value, torch.Size) else value)
        return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    return type(value).__name__


def choose(argument: str, name: str, options: Mapping[str, T]) -> T:
    """options[name], or an error that lists the names and suggests the nearest."""
    if isinstance(name, str) and name in options:
        return options[name]
    listed = f"one of {', '.join(map(repr, options))}"
    if not isinstance(name, str):
        raise wrong(argument, listed, name)
    similar = difflib.get_close_matches(name, options, n=1)
    hint = f"; did you mean {similar[0]!r}?" if similar else ""
    raise ValueError(f"{wrong(argument, listed, name)}{hint}")


def as_flag(argument: str, value: bool) -> bool:
    """True or False, nothing that merely counts as one."""
    if not isinstance(value, bool):
        raise wrong(argument, "True or False", value)
    return value


def as_number(argument: str, value: float, least: float = -LARGEST, wanted: str = "a finite number") -> float:
    """A real number of Python or NumPy as a float that float32 holds, at least `least`."""
    if type(value) is not float and (isinstance(value, bool) or not isinstance(value, Real)):
        raise wrong(argument, wanted, value)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not least <= number <= LARGEST:
        raise wrong(argument, wanted, value, ValueError)
    return number


def as_whole(argument: str, value: int, least: int, most: int, wanted: str) -> int:
    """A whole number of Python or NumPy from `least` to `most`, as an int."""
    if isinstance(value, bool) or not isinstance(value, (int, Integral)):
        raise wrong(argument, wanted, value)
    if not least <= value <= most:
        raise wrong(argument, wanted, value, ValueError)
    return int(value)


def as_callable(argument: str, value: T) -> T:
    """`value`, if it can be called."""
    if not callable(value):
        raise wrong(argument, "a function", value)
    return value


def as_sequence(argument: str, value: Sequence[T], least: int, wanted: str) -> Sequence[T]:
    """A list, tuple or range of at least `least` members."""
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise wrong(argument, wanted, value)
    if len(value) < least:
        raise ValueError(f"{argument} must be {wanted}, got {len(value)}")
    return value


def check_tensor(argument: str, value: Tensor) -> None:
    """`value` must be a dense tensor that holds data."""
    if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_nested:
        raise wrong(argument, "a dense tensor", value)
    if value.is_meta:
        raise wrong(argument, "on a device that holds data", value.device, ValueError)


def register(argument: str, entry: Any, kind: type[T], public: dict[str, T], named: dict[str, T]) -> T:
    """Enter a dataclass with a name into the registry that users read, and the one that raw ops read; returns it."""
    if not isinstance(entry, kind):
        raise wrong(argument, f"of the type {kind.__name__}", entry)
    name = check_name(f"{argument}.name", getattr(entry, "name", ""))
    if public.setdefault(name, entry) != entry:
        raise ValueError(f"{argument} must have a name of its own, got {name!r}, which another one has")
    named[name] = entry
    return entry


def check_name(argument: str, name: str) -> str:
    """A string that is not empty."""
    if not isinstance(name, str) or not name:
        raise wrong(argument, "a string that is not empty", name)
    return name


def named_entry(entry: Any, named: dict[str, T]) -> T:
    """An object that a caller handed in, as raw ops find it: they take strings, so its name must be its own.

    The first use enters it; where its name is taken, under the name with a number.
    """
    for number in count(1):
        renamed = entry if number == 1 else replace(entry, name=f"{entry.name}#{number}")
        if named.setdefault(renamed.name, renamed) == renamed:
            return named[renamed.name]
    raise AssertionError


def as_gaussian(argument: str, value: Gaussian | Tensor, uses_logvar: bool) -> Gaussian:
    """`value` as a checked Gaussian; scores that do not use the variance also take a bare tensor of means."""
    if isinstance(value, Tensor):
        if uses_logvar:
            raise wrong(argument, "a Gaussian(mean, logvar), because variances are used", value)
        _check_floats(f"{argument}.mean", value)
        value = Gaussian(value, value.new_zeros(()).expand_as(value))
    elif not isinstance(value, tuple) or len(value) != 2:
        raise wrong(argument, "a Gaussian(mean, logvar) of two tensors", value)
    mean, logvar = value
    _check_floats(f"{argument}.mean", mean)
    _check_floats(f"{argument}.logvar", logvar)
    if mean.dim() != 2 or mean.shape[1] == 0:
        raise wrong(f"{argument}.mean", "of shape [N, D] with D at least 1", mean.shape, ValueError)
    if mean.shape != logvar.shape:
        raise wrong(f"{argument}.logvar", f"of mean's shape {list(mean.shape)}", logvar.shape, ValueError)
    if mean.device != logvar.device:
        raise wrong(f"{argument}.logvar", f"on {argument}.mean's device {mean.device}", logvar.device, ValueError)
    return Gaussian(mean, logvar)


def _check_floats(argument: str, value: Tensor) -> None:
    check_tensor(argument, value)
    if value.dtype not in FLOATS:
        raise wrong(argument, "float16, bfloat16, float32 or float64", value.dtype)


def check_sides(names: tuple[str, str], x: Gaussian, y: Gaussian, matched: bool = False) -> None:
    """x and y must have the same D, dtype and device, and the same number of rows if `matched`."""
    a, b = names
    if x.mean.shape[1] != y.mean.shape[1]:
        raise ValueError(f"{b} must have {a}'s {x.mean.shape[1]} dimensions, got {y.mean.shape[1]}")
    if matched and x.mean.shape[0] != y.mean.shape[0]:
        raise ValueError(f"{b} must have {a}'s {x.mean.shape[0]} rows (rows are matched), got {y.mean.shape[0]}")
    if x.mean.dtype != y.mean.dtype:
        raise TypeError(f"{b}.mean must have {a}.mean's dtype {x.mean.dtype}, got {y.mean.dtype}")
    if x.mean.device != y.mean.device:
        raise ValueError(f"{b} must be on {a}'s device {x.mean.device}, got {y.mean.device}")


def check_ids(names: tuple[str, str], ids: tuple[Tensor | None, Tensor | None], rows: tuple[int, int]) -> None:
    """Pair ids must be given for both sides or for neither, one integer per row."""
    if (ids[0] is None) != (ids[1] is None):
        present, absent = names if ids[1] is None else names[::-1]
        raise ValueError(f"{absent} must be given where {present} is: pair ids come for both sides or for neither")
    for name, value, n in zip(names, ids, rows, strict=True):
        if value is None:
            continue
        check_tensor(name, value)
        if value.dtype not in INTEGERS:
            raise wrong(name, "a tensor of integers that int64 holds", value.dtype)
        if value.shape != (n,):
            raise wrong(name, f"of shape [{n}]", value.shape, ValueError)


def as_scalar(argument: str, value: float | Tensor, like: Tensor) -> Tensor:
    """`value` as a 0-d tensor in the dtype of sums (float64 for float64, else float32), still attached to its graph."""
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    if not isinstance(value, Tensor):
        return torch.full((), as_number(argument, value, wanted=SCALAR), dtype=dtype, device=like.device)
    check_tensor(argument, value)
    if value.dtype not in FLOATS and value.dtype not in INTEGERS:
        raise wrong(argument, SCALAR, value)
    if value.numel() != 1:
        raise wrong(argument, SCALAR, value, ValueError)
    if value.dtype is dtype and value.dim() == 0 and value.device == like.device:
        return value  # a view of it would take longer than all checks
    return value.reshape(()).to(device=like.device, dtype=dtype)


def check_group(group: Any) -> None:
    """Refuses a group: losses over several ranks are not implemented, and the loss of one rank would be silently wrong."""
    if group is not None:
        raise wrong("group", "None (losses over several ranks are not implemented in this version)", group, ValueError)
