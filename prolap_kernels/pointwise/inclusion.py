"""Inclusion of matched rows and its gradient, in the one form that every backend uses."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from ..gaussian import Gaussian


class Terms:
    """h and its derivatives per dimension, from t = ly - lx through u = exp(-|t|) and 1 - u = -expm1(-|t|).

    With P = (1 + 2u)(2 + u) and w = (mx - my)^2 exp(-max(lx, ly)):
        h = sign(t) [kappa |t| + log1p(-(1 - u)/(2 + u))/2 + rho w (1 - u)/P].
    Everything is a ratio in u, so H is antisymmetric to the last bit, accurate near t = 0, and no squared variance appears
    that could underflow (plain formulas lose their gradient from logvar about -22 on).
    """

    def __init__(self, x: Gaussian, y: Gaussian, kappa: float | Tensor, rho: float | Tensor) -> None:
        t = y.logvar - x.logvar
        self.kappa, self.size = kappa, t.abs()
        self.em = -(-self.size).expm1()
        self.u = 1 - self.em  # to within a rounding of 1, which is what it is added to
        self.wider_y = t >= 0
        self.sign = torch.where(self.wider_y, 1.0, -1.0).to(t)
        self.product = (1 + 2 * self.u) * (2 + self.u)
        self.delta = x.mean - y.mean
        self.pull = rho * self.delta * torch.exp(-torch.maximum(x.logvar, y.logvar))
        self.gap = self.sign * self.pull * self.delta * self.em / self.product

    @cached_property
    def value(self) -> Tensor:
        return self.sign * (self.kappa * self.size + 0.5 * torch.log1p(-self.em / (2 + self.u))) + self.gap

    def gradient(self) -> tuple[Tensor, Tensor, Tensor]:
        """dh/d(mx, lx, ly); dh/dmy = -dh/dmx."""
        u, product, zero = self.u, self.product, self.gap.new_zeros(())
        d_logvar = self.kappa - 1.5 * u / product
        d_logvar = d_logvar + self.pull * self.delta * u * (7 + 4 * u - 2 * u * u) / (product * product)
        d_lx = -d_logvar - torch.where(self.wider_y, zero, self.gap)
        d_ly = d_logvar - torch.where(self.wider_y, self.gap, zero)
        return 2 * self.sign * self.pull * self.em / product, d_lx, d_ly
