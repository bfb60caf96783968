"""Expected likelihood kernel, also known as the mutual likelihood score."""

from __future__ import annotations

import math

from torch import Tensor

from ..gaussian import Gaussian
from .base import Elementwise, Score, register_score
from .elementwise import log, reciprocal, variance


def formula(x: Gaussian, y: Gaussian) -> Tensor:
    """f = log int p q = -((mx - my)^2/(vx + vy) + log(vx + vy) + log 2 pi)/2."""
    both = x.var + y.var
    return -0.5 * ((x.mean - y.mean).square() / both + both.log() + math.log(2 * math.pi))


def value(xa, xb, xc, ya, yb, yc):  # type: ignore[no-untyped-def]
    """By parts (mean, v)."""
    both = xb + yb
    return -0.5 * ((xa - ya) * (xa - ya) * reciprocal(both) + log(both) + 1.8378770664093453)


def gradient_x(xa, xb, xc, ya, yb, yc):  # type: ignore[no-untyped-def]
    inverse = reciprocal(xb + yb)
    pull = (xa - ya) * inverse
    return -pull, 0.5 * xb * inverse * (pull * (xa - ya) - 1.0)


def gradient_y(xa, xb, xc, ya, yb, yc):  # type: ignore[no-untyped-def]
    inverse = reciprocal(xb + yb)
    pull = (xa - ya) * inverse
    return pull, 0.5 * yb * inverse * (pull * (xa - ya) - 1.0)


register_score(Score("elk", formula, elementwise=Elementwise(variance, variance, value, gradient_x, gradient_y)))
