"""Minus the Bhattacharyya distance."""

from __future__ import annotations

from torch import Tensor

from ..gaussian import Gaussian
from .base import Score


def formula(x: Gaussian, y: Gaussian) -> Tensor:
    """f = -((mx - my)^2/(vx + vy)/4 + log((vx + vy)/(2 sqrt(vx vy)))/2)."""
    both = x.var + y.var
    spread = (0.5 * both).log() - 0.5 * (x.logvar + y.logvar)
    return -(0.25 * (x.mean - y.mean).square() / both + 0.5 * spread)


BHATTACHARYYA = Score("bhattacharyya", formula)
