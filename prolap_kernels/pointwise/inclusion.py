"""Inclusion of matched rows and its gradient, in the one form that every backend uses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..gaussian import Gaussian, widen
from ..scores.inclusion import formula

ROWS = 4096
"""Rows at a time, so that temporaries stay bounded."""


class Terms:
    """h and its derivatives per dimension, from t = ly - lx through u = exp(-|t|) and 1 - u = -expm1(-|t|).

    With P = (1 + 2u)(2 + u) and w = (mx - my)^2 exp(-max(lx, ly)):
        h = sign(t) [kappa |t| + log1p(-(1 - u)/(2 + u))/2 + rho w (1 - u)/P].
    Everything is a ratio in u, so H is antisymmetric to the last bit, accurate near t = 0, and no squared variance appears
    that could underflow (plain formulas lose their gradient from logvar about -22 on).
    """

    def __init__(self, x: Gaussian, y: Gaussian, kappa: float, rho: float) -> None:
        t = y.logvar - x.logvar
        size = t.abs()
        u, em = (-size).exp(), -(-size).expm1()
        self.wider_y = t >= 0
        sign = torch.where(self.wider_y, 1.0, -1.0).to(t)
        product = (1 + 2 * u) * (2 + u)
        precision = torch.exp(-torch.maximum(x.logvar, y.logvar))
        delta = x.mean - y.mean
        pull = rho * delta * precision
        self.gap = sign * pull * delta * em / product
        self.value = sign * (kappa * size + 0.5 * torch.log1p(-em / (2 + u))) + self.gap
        self.d_mean = 2 * sign * pull * em / product
        self.d_logvar = kappa - 1.5 * u / product + pull * delta * u * (7 + 4 * u - 2 * u * u) / (product * product)

    def gradient(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """dh/d(mx, lx, my, ly)."""
        zero = self.gap.new_zeros(())
        d_lx = -self.d_logvar - torch.where(self.wider_y, zero, self.gap)
        d_ly = self.d_logvar - torch.where(self.wider_y, self.gap, zero)
        return self.d_mean, d_lx, -self.d_mean, d_ly


def _link(terms: Terms, weight: Tensor, scale: float, reduce: str) -> tuple[Tensor, Tensor]:
    """Weighted value per row [n] and its derivative by h, [n, 1] or [n, D]; `reduce` is "score" for H itself."""
    dims = terms.value.shape[1]
    if reduce == "score":
        return weight * terms.value.sum(1), weight[:, None]
    if reduce == "none":
        z = -scale * terms.value
        return weight * F.softplus(z).mean(1), weight[:, None] * z.sigmoid() * (-scale / max(dims, 1))
    factor = scale / max(dims, 1) if reduce == "mean" else scale
    z = -factor * terms.value.sum(1)
    return weight * F.softplus(z), (weight * z.sigmoid() * -factor)[:, None]


def inclusion_chain(
    levels: list[Gaussian], weight: Tensor, scale: float, convention: tuple[float, float], reduce: str, need_grad: bool
) -> tuple[Tensor, list[Tensor]]:
    """sum_k weight_kn loss(level k inside level k+1) per row, and its gradient for every level.

    levels: P Gaussians [N, D]; weight [P-1, N]; convention (kappa, rho); reduce "sum", "mean", "none" or "score".
    Returns rows [N] and [dmean_0, dlogvar_0, dmean_1, ...], each [N, D] in float32 (float64 for float64), size 0 without
    need_grad. A link of weight 0 adds exact zeros, whatever its rows hold.
    """
    n = len(levels[0].mean)
    rows = weight.new_zeros(n)
    grads = [weight.new_zeros(z.mean.shape if need_grad else 0) for z in levels for _ in range(2)]
    for start in range(0, n, ROWS):
        part = slice(start, start + ROWS)
        wide = [Gaussian(widen(z.mean[part]), widen(z.logvar[part])) for z in levels]
        for k, (x, y) in enumerate(zip(wide, wide[1:], strict=False)):
            w = weight[k, part]
            dead = w == 0
            terms = Terms(x, y, *convention)
            value, upstream = _link(terms, w, scale, reduce)
            rows[part] += value.masked_fill(dead, 0)
            if need_grad:
                for grad, local in zip(grads[2 * k : 2 * k + 4], terms.gradient(), strict=True):
                    grad[part] += (upstream * local).masked_fill_(dead[:, None], 0)
    return rows, grads


def formula_chain(
    levels: list[Gaussian], weight: Tensor, scale: float, convention: tuple[float, float], reduce: str
) -> Tensor:
    """The same rows by the plain formula of the score, differentiable: the truth for tests, in float64."""
    rows = weight.new_zeros(len(levels[0].mean))
    for w, x, y in zip(weight, levels, levels[1:], strict=False):
        h = formula(x, y, *convention)
        if reduce == "none":
            value = -F.logsigmoid(scale * h).mean(1)
        else:
            total = h.mean(1) if reduce == "mean" else h.sum(1)
            value = total if reduce == "score" else -F.logsigmoid(scale * total)
        rows = rows + torch.where(w == 0, torch.zeros_like(value), w * value)
    return rows
