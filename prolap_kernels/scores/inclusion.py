"""Inclusion H(x in y): orders generality, not similarity."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from ..gaussian import Gaussian
from .base import Score

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


INCLUSION = Score("inclusion", partial(formula, kappa=0.5, rho=1.0))
INCLUSION_PROLIP = Score(
    "inclusion/prolip", partial(formula, kappa=CONVENTIONS["prolip"][0], rho=CONVENTIONS["prolip"][1])
)
