"""Minus the closed-form sampled distance E|X - Y|^2: PCME++."""

from __future__ import annotations

from torch import Tensor

from ..gaussian import Gaussian, widen
from .base import Lift, Score


def formula(x: Gaussian, y: Gaussian) -> Tensor:
    """f = -((mx - my)^2 + vx + vy)."""
    return -((x.mean - y.mean).square() + x.var + y.var)


def lift_x(z: Gaussian) -> Lift:
    """As a lift, |mx - my|^2 is a difference of numbers near |mx|^2 + |my|^2: nearly equal means lose digits to cancellation."""
    return Lift(2 * z.mean, 2 * z.half_trace - widen(z.mean).square().sum(-1))


def lift_y(z: Gaussian) -> Lift:
    return Lift(z.mean, 2 * z.half_trace - widen(z.mean).square().sum(-1))


CSD_DISTANCE = Score("csd_distance", formula, lift_x, lift_y)
