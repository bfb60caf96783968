"""log int p^2 q without its constant: one half of H, what the public traversal script ranks by."""

from __future__ import annotations

from torch import Tensor

from ..gaussian import Gaussian
from .base import Elementwise, Score, register_score
from .elementwise import log, reciprocal, variance


def formula(x: Gaussian, y: Gaussian) -> Tensor:
    """f = -lx/2 - log(vx + 2 vy)/2 - (mx - my)^2/(vx + 2 vy)."""
    wide = x.var + 2 * y.var
    return -0.5 * x.logvar - 0.5 * wide.log() - (x.mean - y.mean).square() / wide


def value(xa, xb, xc, ya, yb, yc):  # type: ignore[no-untyped-def]
    """By parts (mean, v); the term -lx/2 is the row's."""
    wide = xb + 2.0 * yb
    return -0.5 * log(wide) - (xa - ya) * (xa - ya) * reciprocal(wide)


def gradient_x(xa, xb, xc, ya, yb, yc):  # type: ignore[no-untyped-def]
    inverse = reciprocal(xb + 2.0 * yb)
    pull = (xa - ya) * inverse
    return -2.0 * pull, xb * inverse * (pull * (xa - ya) - 0.5)


def gradient_y(xa, xb, xc, ya, yb, yc):  # type: ignore[no-untyped-def]
    inverse = reciprocal(xb + 2.0 * yb)
    pull = (xa - ya) * inverse
    return 2.0 * pull, yb * inverse * (2.0 * pull * (xa - ya) - 1.0)


ELEMENTWISE = Elementwise(variance, variance, value, gradient_x, gradient_y, logvar_x=-0.5)
register_score(Score("containment", formula, elementwise=ELEMENTWISE))
