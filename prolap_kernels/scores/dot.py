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


def gradient(z: Gaussian, d_phi: Tensor | None, d_offset: Tensor | None) -> tuple[Tensor | None, None]:
    return d_phi, None


register_score(Score("dot", formula, factor, factor, gradient, gradient, None, False, False, False))
