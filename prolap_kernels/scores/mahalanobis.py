"""Minus the squared Mahalanobis distance of x's mean from y."""

from __future__ import annotations

from torch import Tensor

from ..gaussian import Gaussian
from .base import Score


def formula(x: Gaussian, y: Gaussian) -> Tensor:
    """f = -(mx - my)^2 / vy."""
    return -(x.mean - y.mean).square() / y.var


MAHALANOBIS = Score("mahalanobis", formula)
