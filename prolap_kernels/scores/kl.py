"""Minus the Kullback-Leibler divergence of y from x."""

from __future__ import annotations

from torch import Tensor

from ..gaussian import Gaussian
from .base import Score


def formula(x: Gaussian, y: Gaussian) -> Tensor:
    """f = -KL(x || y) = -(ly - lx + exp(lx - ly) + (mx - my)^2/vy - 1)/2."""
    gap = y.logvar - x.logvar
    return -0.5 * (gap + (-gap).expm1() + (x.mean - y.mean).square() / y.var)


KL = Score("kl", formula)
