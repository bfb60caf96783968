"""Validation of arguments. Every error is one sentence that names the argument, what it must be, and what came."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from typing import Any, TypeVar

import torch
from torch import Tensor

from .gaussian import Gaussian

T = TypeVar("T")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def choose(argument: str, name: str, options: Mapping[str, T]) -> T:
    """options[name], or an error that lists the names and suggests the nearest."""
    if name in options:
        return options[name]
    similar = difflib.get_close_matches(str(name), options, n=1)
    hint = f"; did you mean {similar[0]!r}?" if similar else ""
    raise ValueError(f"{argument} must be one of {', '.join(map(repr, options))}, got {name!r}{hint}")


def register(argument: str, entry: Any, kind: type[T], public: dict[str, T], named: dict[str, T]) -> T:
    """Enter a dataclass with a name into the registry that users read, and the one that raw ops read; returns it."""
    if not isinstance(entry, kind):
        raise TypeError(f"{argument} must be of the type {kind.__name__}, got {type(entry).__name__}")
    name: str = getattr(entry, "name", "")
    if public.setdefault(name, entry) != entry:
        raise ValueError(f"{argument} must have a name of its own, got {name!r}, which another one has")
    named[name] = entry
    return entry


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
            raise TypeError(f"{argument} must be a Gaussian(mean, logvar) for this score, got a Tensor")
        value = Gaussian(value, value.new_zeros(()).expand_as(value))
    if not isinstance(value, tuple) or len(value) != 2 or not all(isinstance(part, Tensor) for part in value):
        raise TypeError(f"{argument} must be a Gaussian(mean, logvar) of two tensors, got {type(value).__name__}")
    mean, logvar = value
    if mean.dim() != 2:
        raise ValueError(f"{argument}.mean must have shape [N, D], got {list(mean.shape)}")
    if mean.shape != logvar.shape:
        raise ValueError(f"{argument}.logvar must have the shape of mean, {list(mean.shape)}, got {list(logvar.shape)}")
    for part, tensor in (("mean", mean), ("logvar", logvar)):
        if tensor.dtype not in FLOATS:
            raise TypeError(f"{argument}.{part} must be float16, bfloat16, float32 or float64, got {tensor.dtype}")
    if mean.device != logvar.device:
        raise ValueError(
            f"{argument}.mean and {argument}.logvar must share a device, got {mean.device} and {logvar.device}"
        )
    return Gaussian(mean, logvar)


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
        if not isinstance(value, Tensor) or value.dtype.is_floating_point or value.dtype == torch.bool:
            raise TypeError(f"{name} must be an integer tensor, got {getattr(value, 'dtype', type(value).__name__)}")
        if value.shape != (n,):
            raise ValueError(f"{name} must have shape [{n}], got {list(value.shape)}")


def as_scalar(argument: str, value: float | Tensor, like: Tensor) -> Tensor:
    """`value` as a 0-d tensor in the dtype of sums (float64 for float64, else float32), still attached to its graph."""
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise ValueError(f"{argument} must be a float or a tensor of one element, got shape {list(value.shape)}")
        return value.reshape(()).to(device=like.device, dtype=dtype)
    if not isinstance(value, (int, float)):
        raise TypeError(f"{argument} must be a float or a 0-d tensor, got {type(value).__name__}")
    return torch.full((), float(value), dtype=dtype, device=like.device)


def check_group(group: Any) -> None:
    """Refuses a group: losses over several ranks are not implemented, and the loss of one rank would be silently wrong."""
    if group is not None:
        raise NotImplementedError("group must be None: losses over several ranks are not implemented in this version")
