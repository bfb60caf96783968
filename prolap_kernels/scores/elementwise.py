"""Shared mathematics of elementwise scores: special functions, parts of a row, and the parts of a block of rows.

`backends.triton.elementwise` has the special functions by the same names: one source of a score serves every backend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..gaussian import Gaussian, widen
from .base import Elementwise, Parts

ASINH_HALF = (4.76011440e-05, -3.43898000e-04, 2.34290199e-03, -2.08332812e-02, 0.5)
"""asinh(s/2)/s by powers of s^2 <= 1/2, highest first: interpolated at Chebyshev points, error 1e-9."""
EXCESS = tuple(1.0 / f for f in (39916800, 3628800, 362880, 40320, 5040, 720, 120, 24, 6, 2))
"""(e^z - 1 - z)/z^2 by powers of |z| <= 1, highest first."""


def _polynomial(z: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    out = coefficients[0] * z + coefficients[1]
    for c in coefficients[2:]:
        out = out * z + c
    return out


def rsqrt(z: Tensor) -> Tensor:
    return z.rsqrt()


def reciprocal(z: Tensor) -> Tensor:
    return z.reciprocal()


def log(z: Tensor) -> Tensor:
    return z.log()


def log_complement(q: Tensor, rest: Tensor) -> Tensor:
    """log(1 - q) for 0 <= q < 1, with rest = 1 - q computed independently: each is exact where the other cancels."""
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


def exp_complement(z: Tensor) -> tuple[Tensor, Tensor]:
    """(e^-z, 1 - e^-z) for z >= 0, the second to its own digits."""
    complement = -(-z).expm1()
    return 1 - complement, complement


def inverse_deviation(logvar: Tensor) -> Tensor:
    """e^(-logvar/2), at most e^30 (e^330 in float64), so that its square times that of a mean stays within the dtype."""
    return (-0.5 * logvar).clamp(max=DEVIATION[logvar.dtype]).exp()


def maximum(a: Tensor, b: Tensor) -> Tensor:
    return torch.maximum(a, b)


def where(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(condition, a, b)


DEVIATION = {torch.float32: 30.0, torch.float64: 330.0}
"""Bound of -logvar/2 in `inverse_deviation`."""
LIMIT = {torch.float32: 40.0, torch.float64: 330.0}
"""Bound of |logvar| in variances of elementwise scores, so that a product of two stays within the dtype. Terms that are linear in
logvar are not bounded."""


def variance(mean: Tensor, logvar: Tensor) -> Parts:
    """(mean, v)."""
    return mean, _clamped(logvar).exp()


def split_variance(mean: Tensor, logvar: Tensor) -> Parts:
    """(mean, v, v'): v + v' has twice the digits of v, so that a difference of nearly equal variances keeps its own."""
    exact = _clamped(logvar).double().exp()
    high = exact.to(logvar.dtype)
    return mean, high, (exact - high.double()).to(logvar.dtype)


def logvar(mean: Tensor, logvar: Tensor) -> Parts:
    """(mean, logvar)."""
    return mean, logvar


def precision(mean: Tensor, logvar: Tensor) -> Parts:
    """(mean, 1/v)."""
    return mean, (-_clamped(logvar)).exp()


def logvar_precision(mean: Tensor, logvar: Tensor) -> Parts:
    """(mean, logvar, 1/v)."""
    return mean, logvar, (-_clamped(logvar)).exp()


def mean_alone(mean: Tensor, logvar: Tensor) -> Parts:
    """(mean,)."""
    return (mean,)


def _clamped(logvar: Tensor) -> Tensor:
    limit = LIMIT[logvar.dtype]
    return logvar.clamp(-limit, limit)


class Rows(NamedTuple):
    """A block's rows as an elementwise score reads them: three parts of either side (a side with fewer repeats its first), and
    the terms that are linear in logvar, [2, N] and [2, M], each as the sum of two numbers, since both sides' terms may cancel."""

    x: Parts
    y: Parts
    term_x: Tensor
    term_y: Tensor

    def pairs(self) -> Iterator[Tensor]:
        """Ready to broadcast against each other, [N, 1, D] and [1, M, D]."""
        yield from (t[:, None] for t in self.x)
        yield from (t[None] for t in self.y)

    def piece(self, rows: slice, cols: slice) -> Rows:
        parts = tuple(t[rows] for t in self.x), tuple(t[cols] for t in self.y)
        return Rows(*parts, self.term_x[:, rows], self.term_y[:, cols])

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.x[0]), len(self.y[0]), self.x[0].shape[1]


def read_rows(function: Elementwise, x: Gaussian, y: Gaussian) -> Rows:
    """All rows of x and y, in float32 (float64 for float64 means)."""

    def three(z: Gaussian, parts: Callable[[Tensor, Tensor], Parts]) -> Parts:
        mean, logvar = widen(z.mean), widen(z.logvar).to(widen(z.mean).dtype)
        read = parts(mean if function.mean_scale == 1.0 else mean * function.mean_scale, logvar)
        read = tuple(t.contiguous() for t in read)
        return read + read[:1] * (3 - len(read))

    sides = three(x, function.parts_x), three(y, function.parts_y)
    like = sides[0][0]
    return Rows(*sides, _term(x.logvar, function.logvar_x, like), _term(y.logvar, function.logvar_y, like))


def _term(logvar: Tensor, factor: float, like: Tensor) -> Tensor:
    if not factor:
        return like.new_zeros(2, len(logvar))
    exact = factor * logvar.double().sum(1)
    high = exact.to(like.dtype)
    return torch.stack([high, (exact - high.double()).to(like.dtype)])
