"""Scalar functions that the kernels share, from exp and exp2 alone: no libdevice, so they compile for AMD too."""

from __future__ import annotations

import triton
import triton.language as tl

from ...pairs import SATURATED as _SATURATED

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
SATURATED = tl.constexpr(_SATURATED)
"""`pairs.SATURATED`, below which a gradient counts as saturated."""


@triton.jit
def softplus_sigmoid(z):
    """(log(1 + e^z), 1 / (1 + e^-z)) from one exponential and one reciprocal; NaN in gives NaN out.

    With e = e^-|z| in [0, 1], log(1 + e) / e is a polynomial (interpolated at Chebyshev points, error 8e-9, value 1 at 0), so
    both keep their relative accuracy down to the smallest e.
    """
    e = tl.exp(-tl.abs(z))
    p = 0.019542528316378593 - e * 0.0031760570127516985
    p = -0.05637361481785774 + e * p
    p = 0.10543623566627502 + e * p
    p = -0.1526966691017151 + e * p
    p = 0.1966327428817749 + e * p
    p = -0.24951615929603577 + e * p
    p = 0.33329710364341736 + e * p
    p = -0.49999892711639404 + e * p
    p = 1.0 + e * p
    return tl.maximum(z, 0.0) + e * p, tl.where(z >= 0.0, 1.0, e) / (1.0 + e)


@triton.jit
def exp_reduced(x):
    """exp(x) with the argument reduced first: x * log2(e) alone, rounded, costs 1e-6 of the result at |x| = 30."""
    x = tl.where(x < -120.0, -120.0, x)
    x = tl.where(x > 120.0, 120.0, x)
    k = tl.floor(x * 1.4426950408889634 + 0.5)
    r = (x - k * 0.693359375) + k * 2.12194440054690583e-4
    return tl.exp2(r * 1.4426950408889634) * tl.exp2(k)


@triton.jit
def one_minus_exp_neg(a):
    """(exp(-a), 1 - exp(-a)) for a >= 0; the second by its series below 1/2, where the subtraction would cancel."""
    u = exp_reduced(-a)
    s = tl.where(a < 0.5, a, 0.0)
    p = 1.0 / 5040.0 - s * (1.0 / 40320.0)
    p = 1.0 / 720.0 - s * p
    p = 1.0 / 120.0 - s * p
    p = 1.0 / 24.0 - s * p
    p = 1.0 / 6.0 - s * p
    p = 0.5 - s * p
    p = 1.0 - s * p
    return u, tl.where(a < 0.5, a * p, 1.0 - u)


@triton.jit
def expm1_excess(x):
    """exp(x) - 1 - x, by its series for |x| <= 1, where the subtraction would cancel."""
    small = tl.abs(x) <= 1.0
    s = tl.where(small, x, 0.0)
    p = 1.0 / 3628800.0 + s * (1.0 / 39916800.0)
    p = 1.0 / 362880.0 + s * p
    p = 1.0 / 40320.0 + s * p
    p = 1.0 / 5040.0 + s * p
    p = 1.0 / 720.0 + s * p
    p = 1.0 / 120.0 + s * p
    p = 1.0 / 24.0 + s * p
    p = 1.0 / 6.0 + s * p
    p = 0.5 + s * p
    # at +inf the limit is inf, not inf - inf
    return tl.where(small, x * x * p, (exp_reduced(x) - 1.0) - tl.where(x > 120.0, 120.0, x))


@triton.jit
def exp2_approx(x, NVIDIA: tl.constexpr):
    """2^x, in one instruction on NVIDIA, where results below 2^-126, the gradients of logits beyond 87, are 0."""
    if NVIDIA:
        y = tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    else:
        y = tl.exp2(x)
    return y


@triton.jit
def reciprocal(x, NVIDIA: tl.constexpr):
    """1 / x to one unit in the last place, for x in [1, 2], without a division's branches for other ranges."""
    if NVIDIA:
        y = tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    else:
        y = 1.0 / x
    return y


@triton.jit
def compose(a, b):
    """(1 + a)(1 + b) - 1, so that log1p of many composed is the sum of their log1p; keeps the smallest terms."""
    return a * (1.0 + b) + b


@triton.jit
def log1p_positive(a):
    """log(1 + a) for a >= 0, to rounding: the rounding of 1 + a is divided out again."""
    w = 1.0 + a
    d = w - 1.0
    return tl.where(d == 0.0, a, tl.log(w) * (a / tl.where(d == 0.0, 1.0, d)))
