"""log int p^2 q without its constant: one half of H, what the public traversal script ranks by."""

from __future__ import annotations

from torch import Tensor

from ..gaussian import Gaussian
from .base import Score


def formula(x: Gaussian, y: Gaussian) -> Tensor:
    """f = -lx/2 - log(vx + 2 vy)/2 - (mx - my)^2/(vx + 2 vy)."""
    wide = x.var + 2 * y.var
    return -0.5 * x.logvar - 0.5 * wide.log() - (x.mean - y.mean).square() / wide


CONTAINMENT = Score("containment", formula)
