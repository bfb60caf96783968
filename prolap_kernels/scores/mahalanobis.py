"""Minus the squared Mahalanobis distance of x's mean from y."""

from __future__ import annotations

from torch import Tensor

from ..gaussian import Gaussian
from .base import Elementwise, Score, register_score
from .elementwise import mean_alone, precision


def formula(x: Gaussian, y: Gaussian) -> Tensor:
    """f = -(mx - my)^2 / vy."""
    return -(x.mean - y.mean).square() / y.var


def value(xa, xb, xc, ya, yb, yc):  # type: ignore[no-untyped-def]
    """By parts (mean) of x, (mean, 1/v) of y."""
    return (ya - xa) * (xa - ya) * yb


def gradient_x(xa, xb, xc, ya, yb, yc):  # type: ignore[no-untyped-def]
    return 2.0 * (ya - xa) * yb, 0.0 * xa


def gradient_y(xa, xb, xc, ya, yb, yc):  # type: ignore[no-untyped-def]
    return 2.0 * (xa - ya) * yb, (xa - ya) * (xa - ya) * yb


register_score(
    Score("mahalanobis", formula, elementwise=Elementwise(mean_alone, precision, value, gradient_x, gradient_y))
)
