"""Variational information bottleneck: KL to the standard normal, per dimension."""

from __future__ import annotations

from torch import Tensor


def vib(mean: Tensor, q: Tensor) -> Tensor:
    """-(1 + q - m^2 - exp(q))/2; q: the log-variance, or half of it as in ProLIP's public code. Differentiable."""
    return 0.5 * (q.expm1() - q + mean.square())


def vib_gradient(mean: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """By mean and by q."""
    return mean, 0.5 * q.expm1()
