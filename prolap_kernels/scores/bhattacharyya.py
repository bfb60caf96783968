"""Minus the Bhattacharyya distance."""

from __future__ import annotations

from torch import Tensor

from ..gaussian import Gaussian
from .base import Elementwise, Score, register_score
from .elementwise import log_complement, reciprocal, split_variance


def formula(x: Gaussian, y: Gaussian) -> Tensor:
    """f = -((mx - my)^2/(vx + vy)/4 + log((vx + vy)/(2 sqrt(vx vy)))/2)."""
    both = x.var + y.var
    spread = (0.5 * both).log() - 0.5 * (x.logvar + y.logvar)
    return -(0.25 * (x.mean - y.mean).square() / both + 0.5 * spread)


def value(xa, xb, xc, ya, yb, yc):  # type: ignore[no-untyped-def]
    """By parts (mean, v, v'): with T = (vy - vx)/(vx + vy), the spread's term is log(1 - T^2)/4."""
    inverse = reciprocal(xb + yb)
    tilt = ((yb - xb) + (yc - xc)) * inverse
    spread = log_complement(tilt * tilt, 4.0 * (xb * inverse) * (yb * inverse))
    return 0.25 * (spread - (xa - ya) * (xa - ya) * inverse)


def gradient_x(xa, xb, xc, ya, yb, yc):  # type: ignore[no-untyped-def]
    inverse = reciprocal(xb + yb)
    tilt = ((yb - xb) + (yc - xc)) * inverse
    pull = (xa - ya) * inverse
    return -0.5 * pull, 0.25 * (pull * (xa - ya) * (xb * inverse) + tilt)


def gradient_y(xa, xb, xc, ya, yb, yc):  # type: ignore[no-untyped-def]
    inverse = reciprocal(xb + yb)
    tilt = ((yb - xb) + (yc - xc)) * inverse
    pull = (xa - ya) * inverse
    return 0.5 * pull, 0.25 * (pull * (xa - ya) * (yb * inverse) - tilt)


register_score(
    Score(
        "bhattacharyya", formula, elementwise=Elementwise(split_variance, split_variance, value, gradient_x, gradient_y)
    )
)
