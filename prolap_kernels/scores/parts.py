"""What tiles see of a row: O(N D) exponentials, so that none is left for the N M D elements."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Parts

LIMIT = {torch.float32: 40.0, torch.float64: 330.0}
"""Largest |logvar| whose variance enters a tile: products of two variances stay within the type. Beyond, a variance counts as at
this limit; terms that are linear in logvar do not."""


def variance(mean: Tensor, logvar: Tensor) -> Parts:
    """(mean, v)."""
    return mean, _clamped(logvar).exp()


def split_variance(mean: Tensor, logvar: Tensor) -> Parts:
    """(mean, v, v'): v + v' is the variance to twice the digits, so that a difference of nearly equal variances keeps its own."""
    exact = _clamped(logvar).double().exp()
    high = exact.to(logvar.dtype)
    return mean, high, (exact - high.double()).to(logvar.dtype)


def logvar(mean: Tensor, logvar: Tensor) -> Parts:
    """(mean, logvar)."""
    return mean, logvar


def precision(mean: Tensor, logvar: Tensor) -> Parts:
    """(mean, 1/v)."""
    return mean, (-_clamped(logvar)).exp()


def logvar_precision(mean: Tensor, logvar: Tensor) -> Parts:
    """(mean, logvar, 1/v)."""
    return mean, logvar, (-_clamped(logvar)).exp()


def mean_alone(mean: Tensor, logvar: Tensor) -> Parts:
    """(mean,)."""
    return (mean,)


def _clamped(logvar: Tensor) -> Tensor:
    limit = LIMIT[logvar.dtype]
    return logvar.clamp(-limit, limit)
