"""Inclusion H(x in y): orders generality, not similarity."""

from __future__ import annotations

import math
from functools import cached_property, partial

import torch
from torch import Tensor

from ..gaussian import Gaussian
from .base import Elementwise, Score, register_score
from .elementwise import asinh_half_ratio, rsqrt, split_variance

CONVENTIONS = {"exact": (0.5, 1.0), "prolip": (1.0, 4.5399929762484854e-05)}
"""(kappa, rho): `exact` is log int p^2 q - log int p q^2; `prolip`, the public loss code, has kappa = 1, rho = exp(-10)."""


def formula(x: Gaussian, y: Gaussian, kappa: float, rho: float) -> Tensor:
    """h = kappa (ly - lx) + log((2 vx + vy)/(vx + 2 vy))/2 + rho (mx - my)^2 (vy - vx)/((vx + 2 vy)(2 vx + vy)).

    H > 0 says that y is the wider one. For a wider y, H *grows* with the distance of the means: it never retrieves on its
    own. Shortlist by `csd`, order by H.
    """
    vx, vy = x.var, y.var
    wide_y, wide_x = vx + 2 * vy, 2 * vx + vy
    gap = (x.mean - y.mean).square() * (vy - vx) / (wide_x * wide_y)
    return kappa * (y.logvar - x.logvar) + 0.5 * (wide_x / wide_y).log() + rho * gap


class InclusionTerms:
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


def value(xa, xb, xc, ya, yb, yc):  # type: ignore[no-untyped-def]
    """By parts (mean, v, v'), without kappa (ly - lx), which is a term of the rows.

    With R = ((2 vx + vy)(vx + 2 vy))^(-1/2) and s = (vy - vx) R, log((2 vx + vy)/(vx + 2 vy))/2 = -asinh(s/2), so that
    f = s ((mx - my)^2 R - asinh(s/2)/s): one special function, no logarithm, and odd in s to the last bit.
    """
    root = rsqrt((2.0 * xb + yb) * (xb + 2.0 * yb))
    s = ((yb - xb) + (yc - xc)) * root
    return s * ((xa - ya) * (xa - ya) * root - asinh_half_ratio(s * s))


def gradient_x(xa, xb, xc, ya, yb, yc):  # type: ignore[no-untyped-def]
    """With a = vx R, b = vy R: df/dmx = 2 (mx - my) R s, df/dlx = a (3 b/2 - (mx - my)^2 R (9 b (a + b) - 1)).

    (2 a + b)(a + 2 b) = 1 makes 7 b^2 + 4 a b - 2 a^2 out of the last bracket. No squared variance appears that could underflow:
    plain formulas lose their gradient from logvar about -22 on.
    """
    root = rsqrt((2.0 * xb + yb) * (xb + 2.0 * yb))
    a, b = xb * root, yb * root
    pull = (xa - ya) * root
    by_mean = 2.0 * pull * (((yb - xb) + (yc - xc)) * root)
    return by_mean, a * (1.5 * b - (xa - ya) * pull * (9.0 * (b * (a + b)) - 1.0))


def gradient_y(xa, xb, xc, ya, yb, yc):  # type: ignore[no-untyped-def]
    """H(x in y) = -H(y in x), so this is minus `gradient_x` with the sides exchanged."""
    root = rsqrt((2.0 * xb + yb) * (xb + 2.0 * yb))
    a, b = xb * root, yb * root
    pull = (ya - xa) * root
    by_mean = 2.0 * pull * (((yb - xb) + (yc - xc)) * root)
    return by_mean, b * ((ya - xa) * pull * (9.0 * (a * (a + b)) - 1.0) - 1.5 * a)


def _score(name: str, convention: str) -> Score:
    """kappa (ly - lx) is a term of the rows; rho enters with the means."""
    kappa, rho = CONVENTIONS[convention]
    elementwise = Elementwise(
        split_variance, split_variance, value, gradient_x, gradient_y,
        logvar_x=-kappa, logvar_y=kappa, mean_scale=math.sqrt(rho), light=True,
    )  # fmt: skip
    return register_score(Score(name, partial(formula, kappa=kappa, rho=rho), elementwise=elementwise))


INCLUSION = _score("inclusion", "exact")
INCLUSION_PROLIP = _score("inclusion/prolip", "prolip")
