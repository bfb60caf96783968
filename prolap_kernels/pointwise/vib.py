"""Variational information bottleneck: KL to the standard normal, per row."""

from __future__ import annotations

from torch import Tensor

from ..gaussian import Gaussian, widen


def formula(z: Gaussian, halved: bool) -> Tensor:
    """-(1 + l - m^2 - exp(l))/2, mean over D, [N]; `halved` puts l/2 for l, as ProLIP's public code does. Differentiable."""
    logvar = 0.5 * widen(z.logvar) if halved else widen(z.logvar)
    return 0.5 * (logvar.expm1() - logvar + widen(z.mean).square()).mean(1)


def vib(z: Gaussian, halved: bool, need_grad: bool) -> tuple[Tensor, list[Tensor]]:
    """The rows [N] and their gradient [dmean, dlogvar], size 0 without need_grad."""
    rows = formula(z, halved)
    if not need_grad:
        return rows, [rows.new_zeros(0), rows.new_zeros(0)]
    logvar, dims = widen(z.logvar), max(z.mean.shape[1], 1)
    half = 0.5 if halved else 1.0
    return rows, [widen(z.mean) / dims, (half * logvar).expm1() * (0.5 * half / dims)]
