"""Minus the squared 2-Wasserstein distance between diagonal Gaussians: the ablation of PCME++."""

from __future__ import annotations

import torch
from torch import Tensor

from ..gaussian import Gaussian, widen
from .base import Factor, Score, register_score


def formula(x: Gaussian, y: Gaussian) -> Tensor:
    """f = -((mx - my)^2 + (sx - sy)^2), s the standard deviation."""
    return -((x.mean - y.mean).square() + (x.std - y.std).square())


def _point(z: Gaussian) -> Tensor:
    """[mean, deviation], never in 16 bits: rounding the deviations would cost more than it saves."""
    return torch.cat([widen(z.mean), z.std.to(widen(z.mean).dtype)], -1)


def factor_x(z: Gaussian) -> Factor:
    """Nearly equal pairs lose digits to cancellation; in float32 the deviations' part is lost from logvar about -14 on."""
    point = _point(z)
    return Factor(2 * point, -point.square().sum(-1))


def factor_y(z: Gaussian) -> Factor:
    point = _point(z)
    return Factor(point, -point.square().sum(-1))


def gradient_x(z: Gaussian, d_phi: Tensor, d_offset: Tensor) -> tuple[Tensor, Tensor]:
    return gradient_y(z, 2 * d_phi, d_offset)


def gradient_y(z: Gaussian, d_phi: Tensor, d_offset: Tensor) -> tuple[Tensor, Tensor]:
    by_mean, by_deviation = (d_phi - 2 * d_offset[:, None] * _point(z)).chunk(2, 1)
    return by_mean, 0.5 * z.std * by_deviation


register_score(Score("wasserstein2", formula, factor_x, factor_y, gradient_x, gradient_y))
