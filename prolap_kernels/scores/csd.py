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


register_score(Score("csd", formula, factor, factor))
