"""The functions of `scores.elementary` for Triton, and tiles compiled with them."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl

from .numerics import expm1_excess


@triton.jit
def rsqrt(z):
    return tl.rsqrt(z)


@triton.jit
def reciprocal(z):
    return 1.0 / z


@triton.jit
def log(z):
    return tl.log(z)


@triton.jit
def log_complement(q, rest):
    """log(1 - q): from 1 - q with its rounding divided out again, or from rest = 1 - q where q is near 1."""
    low = q < 0.5
    w = tl.where(low, 1.0 - q, rest)
    lost = 1.0 - w
    exact = tl.where(lost == 0.0, -q, tl.log(w) * (q / tl.where(lost == 0.0, 1.0, lost)))
    return tl.where(low, exact, tl.log(w))


@triton.jit
def asinh_half_ratio(p):
    """asinh(s/2)/s for p = s^2 <= 1/2, as `scores.elementary.ASINH_HALF`."""
    out = p * 4.76011440e-05 - 3.43898000e-04
    out = p * out + 2.34290199e-03
    out = p * out - 2.08332812e-02
    return p * out + 0.5


@triton.jit
def exp_excess(z):
    return expm1_excess(z)


@triton.jit
def expm1(z):
    return z + expm1_excess(z)


FUNCTIONS = {
    "rsqrt": rsqrt,
    "reciprocal": reciprocal,
    "log": log,
    "log_complement": log_complement,
    "asinh_half_ratio": asinh_half_ratio,
    "exp_excess": exp_excess,
    "expm1": expm1,
}


@functools.cache
def compiled(function: Callable[..., Any]) -> Any:
    """A function of a `Tile` for use inside kernels: its source, with the names of `scores.elementary` bound to those here."""
    # the interpreter asks for tl in every function
    names = {**function.__globals__, **FUNCTIONS, "tl": tl}
    bound = types.FunctionType(function.__code__, names, function.__name__)
    # one file per score, the same names in all: Triton tells its functions apart by these
    bound.__module__, bound.__qualname__ = function.__module__, function.__qualname__
    return triton.jit(bound)
