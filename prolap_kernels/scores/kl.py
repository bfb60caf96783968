"""Minus the Kullback-Leibler divergence of y from x."""

from __future__ import annotations

from torch import Tensor

from ..gaussian import Gaussian
from .base import Elementwise, Score, register_score
from .elementwise import exp_excess, expm1, logvar, logvar_precision


def formula(x: Gaussian, y: Gaussian) -> Tensor:
    """f = -KL(x || y) = -(ly - lx + exp(lx - ly) + (mx - my)^2/vy - 1)/2."""
    gap = y.logvar - x.logvar
    return -0.5 * (gap + (-gap).expm1() + (x.mean - y.mean).square() / y.var)


def value(xa, xb, xc, ya, yb, yc):  # type: ignore[no-untyped-def]
    """By parts (mean, logvar) of x, (mean, logvar, 1/v) of y."""
    return -0.5 * (exp_excess(xb - yb) + (xa - ya) * (xa - ya) * yc)


def gradient_x(xa, xb, xc, ya, yb, yc):  # type: ignore[no-untyped-def]
    return (ya - xa) * yc, -0.5 * expm1(xb - yb)


def gradient_y(xa, xb, xc, ya, yb, yc):  # type: ignore[no-untyped-def]
    return (xa - ya) * yc, 0.5 * (expm1(xb - yb) + (xa - ya) * (xa - ya) * yc)


register_score(Score("kl", formula, elementwise=Elementwise(logvar, logvar_precision, value, gradient_x, gradient_y)))
