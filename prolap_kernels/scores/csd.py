"""Closed-form sampled distance as a similarity: ProLIP, ProLAP."""

from __future__ import annotations

from torch import Tensor

from ..gaussian import Gaussian
from .base import Factor, Score, register_score


def formula(x: Gaussian, y: Gaussian) -> Tensor:
    """f = mx my - (vx + vy)/2; for unit means the sum is 1 - E|X - Y|^2 / 2."""
    return x.mean * y.mean - 0.5 * (x.var + y.var)


def factor(z: Gaussian) -> Factor:
    return Factor(z.mean, z.half_trace)


def gradient(z: Gaussian, d_phi: Tensor | None, d_offset: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    return d_phi, None if d_offset is None else z.half_trace_gradient(d_offset)


register_score(Score("csd", formula, factor, factor, gradient, gradient, logvar_in_phi=False, mean_in_offset=False))
