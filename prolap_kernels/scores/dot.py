"""Inner product of the means: CLIP, SigLIP, CLAP."""

from __future__ import annotations

from torch import Tensor

from ..gaussian import Gaussian
from .base import Factor, Score, register_score


def formula(x: Gaussian, y: Gaussian) -> Tensor:
    """f = mx my."""
    return x.mean * y.mean


def factor(z: Gaussian) -> Factor:
    return Factor(z.mean, None)


register_score(Score("dot", formula, factor, factor, uses_logvar=False))
