"""Minus the symmetrised Kullback-Leibler divergence."""

from __future__ import annotations

from torch import Tensor

from ..gaussian import Gaussian
from . import kl
from .base import Score


def formula(x: Gaussian, y: Gaussian) -> Tensor:
    """f = -(KL(x || y) + KL(y || x))."""
    return kl.formula(x, y) + kl.formula(y, x)


JEFFREYS = Score("jeffreys", formula)
