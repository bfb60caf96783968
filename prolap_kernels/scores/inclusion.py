"""Inclusion H(x in y): orders generality, not similarity."""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor

from ..gaussian import Gaussian
from .base import Elementwise, Score, register_score
from .elementwise import asinh_half_ratio, exp_complement, inverse_deviation, maximum, rsqrt, split_variance, where

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


def curve(delta, excess, root):  # type: ignore[no-untyped-def]
    """f = h - kappa (ly - lx) of delta = mx - my, excess = vy - vx and root = R = ((2 vx + vy)(vx + 2 vy))^(-1/2).

    With s = excess R, log((2 vx + vy)/(vx + 2 vy))/2 = -asinh(s/2), so that f = s (delta^2 R - asinh(s/2)/s): one special
    function, no logarithm, and odd in s to the last bit.
    """
    s = excess * root
    return s * (delta * delta * root - asinh_half_ratio(s * s))


def curve_gradient(delta, vx, vy, excess, root):  # type: ignore[no-untyped-def]
    """df/dmx and df/dlx. With a = vx R, b = vy R: 2 delta R s and a (3 b/2 - delta^2 R (9 b (a + b) - 1)).

    (2 a + b)(a + 2 b) = 1 makes 7 b^2 + 4 a b - 2 a^2 out of the last bracket. No squared variance appears that could underflow:
    plain formulas lose their gradient from logvar about -22 on.
    """
    a, b = vx * root, vy * root
    pull = delta * root
    return 2.0 * pull * (excess * root), a * (1.5 * b - delta * pull * (9.0 * (b * (a + b)) - 1.0))


def value(xa, xb, xc, ya, yb, yc):  # type: ignore[no-untyped-def]
    """`curve` by parts (mean, v, v'); kappa (ly - lx) is a term of the rows."""
    return curve(xa - ya, (yb - xb) + (yc - xc), rsqrt((2.0 * xb + yb) * (xb + 2.0 * yb)))


def gradient_x(xa, xb, xc, ya, yb, yc):  # type: ignore[no-untyped-def]
    """`curve_gradient` by parts."""
    return curve_gradient(xa - ya, xb, yb, (yb - xb) + (yc - xc), rsqrt((2.0 * xb + yb) * (xb + 2.0 * yb)))


def gradient_y(xa, xb, xc, ya, yb, yc):  # type: ignore[no-untyped-def]
    """H(x in y) = -H(y in x), so this is minus `gradient_x` with the sides exchanged."""
    by_mean, by_logvar = curve_gradient(
        ya - xa, yb, xb, (xb - yb) + (xc - yc), rsqrt((2.0 * yb + xb) * (yb + 2.0 * xb))
    )
    return -by_mean, -by_logvar


def matched_value(mx, lx, my, ly, kappa, mean_scale):  # type: ignore[no-untyped-def]
    """h of matched rows; mean_scale: the root of rho.

    The larger variance is the unit, so the smaller one is u = e^-|ly - lx|, and no variance overflows. The order of the two
    decides the sign of f.
    """
    t = ly - lx
    u, excess = exp_complement(t.abs())
    delta = (mx - my) * (mean_scale * inverse_deviation(maximum(lx, ly)))
    f = curve(delta, excess, rsqrt((2.0 * u + 1.0) * (u + 2.0)))
    return kappa * t + where(t < 0.0, -f, f)


def matched_gradient(mx, lx, my, ly, kappa, mean_scale):  # type: ignore[no-untyped-def]
    """(dh/dmx, dh/dlx, dh/dly) of `matched_value`; dh/dmy = -dh/dmx.

    In units of the larger variance delta^2 alone depends on that variance: the derivatives of f by both log-variances add up to
    -delta df/ddelta/2.
    """
    t = ly - lx
    u, excess = exp_complement(t.abs())
    unit = mean_scale * inverse_deviation(maximum(lx, ly))
    delta = (mx - my) * unit
    by_delta, by_smaller = curve_gradient(delta, u, 1.0, excess, rsqrt((2.0 * u + 1.0) * (u + 2.0)))
    by_larger = -by_smaller - 0.5 * (by_delta * delta)
    below = t < 0.0
    by_mean = where(below, -by_delta, by_delta) * unit
    return by_mean, where(below, -by_larger, by_smaller) - kappa, where(below, -by_smaller, by_larger) + kappa


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
