"""Special functions that tiles are written with, for torch; `backends.triton.elementwise` has them for Triton by the same names:
a tile is one function for every backend.
"""

from __future__ import annotations

import torch
from torch import Tensor

ASINH_HALF = (4.76011440e-05, -3.43898000e-04, 2.34290199e-03, -2.08332812e-02, 0.5)
"""asinh(s/2)/s by powers of s^2 <= 1/2, highest first: interpolated at Chebyshev points, error 1e-9."""
EXCESS = tuple(1.0 / f for f in (39916800, 3628800, 362880, 40320, 5040, 720, 120, 24, 6, 2))
"""(e^z - 1 - z)/z^2 by powers of |z| <= 1, highest first."""


def _polynomial(z: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    out = torch.full_like(z, coefficients[0])
    for c in coefficients[1:]:
        out = out * z + c
    return out


def rsqrt(z: Tensor) -> Tensor:
    return z.rsqrt()


def reciprocal(z: Tensor) -> Tensor:
    return z.reciprocal()


def log(z: Tensor) -> Tensor:
    return z.log()


def log_complement(q: Tensor, rest: Tensor) -> Tensor:
    """log(1 - q) for 0 <= q < 1, given rest = 1 - q by a way of its own: each is exact where the other cancels."""
    return torch.where(q < 0.5, torch.log1p(-q), rest.log())


def asinh_half_ratio(p: Tensor) -> Tensor:
    """asinh(s/2)/s for p = s^2 <= 1/2."""
    if p.dtype != torch.float64:
        return _polynomial(p, ASINH_HALF)
    s = p.sqrt()
    return torch.where(p > 1e-16, (0.5 * s).asinh() / s, 0.5)


def expm1(z: Tensor) -> Tensor:
    return z.expm1()


def exp_excess(z: Tensor) -> Tensor:
    """e^z - 1 - z, by its series where the subtraction would cancel."""
    if z.dtype == torch.float64:
        return z.expm1() - z
    small = z.abs() <= 1
    near = torch.where(small, z, 0.0)
    return torch.where(small, near * near * _polynomial(near, EXCESS), z.expm1() - z)
