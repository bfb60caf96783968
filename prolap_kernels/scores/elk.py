"""Expected likelihood kernel, also known as the mutual likelihood score."""

from __future__ import annotations

import math

from torch import Tensor

from ..gaussian import Gaussian
from .base import Score


def formula(x: Gaussian, y: Gaussian) -> Tensor:
    """f = log int p q = -((mx - my)^2/(vx + vy) + log(vx + vy) + log 2 pi)/2."""
    both = x.var + y.var
    return -0.5 * ((x.mean - y.mean).square() / both + both.log() + math.log(2 * math.pi))


ELK = Score("elk", formula)
