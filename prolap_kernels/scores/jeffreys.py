"""Minus the symmetrised Kullback-Leibler divergence."""

from __future__ import annotations

from torch import Tensor

from ..gaussian import Gaussian
from . import kl
from .base import Elementwise, Score, register_score
from .elementwise import reciprocal, split_variance


def formula(x: Gaussian, y: Gaussian) -> Tensor:
    """f = -(KL(x || y) + KL(y || x))."""
    return kl.formula(x, y) + kl.formula(y, x)


def value(xa, xb, xc, ya, yb, yc):  # type: ignore[no-untyped-def]
    """By parts (mean, v, v'): -((vy - vx)^2 + (vx + vy)(mx - my)^2)/(2 vx vy), without a logarithm or an exponential."""
    inverse = reciprocal(xb * yb)
    delta = (yb - xb) + (yc - xc)
    return -0.5 * ((delta * inverse) * delta + ((xb + yb) * inverse) * ((xa - ya) * (xa - ya)))


def gradient_x(xa, xb, xc, ya, yb, yc):  # type: ignore[no-untyped-def]
    inverse = reciprocal(xb * yb)
    delta = (yb - xb) + (yc - xc)
    both = (xb + yb) * inverse
    return (ya - xa) * both, 0.5 * (delta * both + (xa - ya) * (xa - ya) * (yb * inverse))


def gradient_y(xa, xb, xc, ya, yb, yc):  # type: ignore[no-untyped-def]
    inverse = reciprocal(xb * yb)
    delta = (yb - xb) + (yc - xc)
    both = (xb + yb) * inverse
    return (xa - ya) * both, 0.5 * ((xa - ya) * (xa - ya) * (xb * inverse) - delta * both)


register_score(
    Score("jeffreys", formula, elementwise=Elementwise(split_variance, split_variance, value, gradient_x, gradient_y))
)
