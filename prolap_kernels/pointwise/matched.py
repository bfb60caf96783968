"""What a part makes of its matched rows, dimension by dimension, and the derivatives; beside it the plain formulas.

Pure functions of tensors [n, D] that run as they are or compiled, in the dtype of their arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..gaussian import Gaussian, widen
from ..pairs import SATURATED
from ..scores.inclusion import formula
from .inclusion import Terms
from .plan import MEAN, NONE, SCORE, VIB, Place
from .vib import vib, vib_gradient


class Numbers(NamedTuple):
    """Of a `Part`: numbers, or tensors [1] in a program that serves them all."""

    factor: float | Tensor
    kappa: float | Tensor
    rho: float | Tensor


def local_kind(place: Place) -> int:
    """NONE, VIB or, for all parts that sum h itself, SCORE."""
    return int(place.part.kind) if place.part.kind in (NONE, VIB) else SCORE


def local_values(kind: int, x: Gaussian, y: Gaussian, number: Numbers) -> tuple[Tensor, ...]:
    """What is summed over the dimensions, [n, D] each: h; NONE: -log sigmoid(factor h) and whether it is saturated; VIB: the
    divergence of x."""
    if kind == VIB:
        return (vib(x.mean, number.factor * x.logvar),)
    h = Terms(x, y, number.kappa, number.rho).value
    if kind == SCORE:
        return (h,)
    z = -number.factor * h
    return F.softplus(z), (z.sigmoid() < SATURATED).to(z)


def local_slopes(kind: int, x: Gaussian, y: Gaussian, number: Numbers, weight: Tensor) -> tuple[Tensor, ...]:
    """Derivatives by x.mean, x.logvar and, but for VIB, y.logvar times weight [n, 1], a row's slope by the sum of h, of
    factor h for NONE; that by y.mean is minus the first."""
    if kind == VIB:
        by_mean, by_q = vib_gradient(x.mean, number.factor * x.logvar)
        return _times(weight, by_mean), _times(number.factor * weight, by_q)
    terms = Terms(x, y, number.kappa, number.rho)
    if kind == NONE:
        weight = weight * (-number.factor * terms.value).sigmoid()
    by_mean, by_lx, by_ly = terms.gradient()
    return _times(weight, by_mean), _times(weight, by_lx), _times(weight, by_ly)


def _times(weight: Tensor, local: Tensor) -> Tensor:
    """A vanished weight wins over an infinite derivative, its limit, and over a row's NaN."""
    return torch.where(weight == 0, 0.0, weight * local)


def factor_of_sum(place: Place, width: int) -> float:
    """On the sum of h over dimensions."""
    return place.part.factor / max(width, 1) if place.part.kind == MEAN else place.part.factor


def formula_rows(levels: Sequence[Gaussian], place: Place) -> Tensor:
    """Values of a part's rows [rows] by the plain formulas, differentiable: the truth for tests, in float64."""
    part = place.part
    x, y = (levels[k].rows(slice(place.rows)) for k in (place.inner, place.outer))
    if not part.moves_mean:
        x, y = (Gaussian(z.mean.detach(), z.logvar) for z in (x, y))
    if part.kind == VIB:
        return vib(widen(x.mean), part.factor * widen(x.logvar)).mean(1)
    h = formula(x, y, part.kappa, part.rho)
    if part.kind == SCORE:
        return h.sum(1)
    if part.kind == NONE:
        return -F.logsigmoid(part.factor * h).mean(1)
    return -F.logsigmoid(factor_of_sum(place, h.shape[1]) * h.sum(1))
