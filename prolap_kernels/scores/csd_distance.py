"""Minus the closed-form sampled distance E|X - Y|^2: PCME++."""

from __future__ import annotations

from torch import Tensor

from ..gaussian import Gaussian, widen
from .base import Factor, Score, register_score


def formula(x: Gaussian, y: Gaussian) -> Tensor:
    """f = -((mx - my)^2 + vx + vy)."""
    return -((x.mean - y.mean).square() + x.var + y.var)


def factor_x(z: Gaussian) -> Factor:
    """|mx - my|^2 comes as a difference of numbers near |mx|^2 + |my|^2: nearly equal means lose digits to cancellation."""
    return Factor(2 * z.mean, 2 * z.half_trace - widen(z.mean).square().sum(-1))


def factor_y(z: Gaussian) -> Factor:
    return Factor(z.mean, 2 * z.half_trace - widen(z.mean).square().sum(-1))


def gradient_x(z: Gaussian, d_phi: Tensor | None, d_offset: Tensor) -> tuple[Tensor | None, Tensor]:
    return gradient_y(z, None if d_phi is None else 2 * d_phi, d_offset)


def gradient_y(z: Gaussian, d_phi: Tensor | None, d_offset: Tensor) -> tuple[Tensor | None, Tensor]:
    twice = 2 * d_offset
    return None if d_phi is None else d_phi - twice[:, None] * z.mean, z.half_trace_gradient(twice)


register_score(Score("csd_distance", formula, factor_x, factor_y, gradient_x, gradient_y, logvar_in_phi=False))
