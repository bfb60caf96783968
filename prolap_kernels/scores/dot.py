"""Inner product of the means: CLIP, SigLIP, CLAP."""

from __future__ import annotations

from torch import Tensor

from ..gaussian import Gaussian
from .base import Lift, Score


def formula(x: Gaussian, y: Gaussian) -> Tensor:
    """f = mx my."""
    return x.mean * y.mean


def lift(z: Gaussian) -> Lift:
    return Lift(z.mean, None)


DOT = Score("dot", formula, lift, lift, uses_logvar=False)
