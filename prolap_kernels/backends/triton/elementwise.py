"""Elementwise scores: a block of their matrix, and its gradients by one side.

Both kernels keep their own rows in registers and load the other side row by row: no atomics, no workspace. Arithmetic bounds
them, so a thread takes a small square (4 x 4, 2 x 4) that few loads feed.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from ...scores import Score
from ...scores.base import Parts
from ...scores.elementwise import Rows
from ..blocks import cdiv, up
from ..chunked import pairs
from ..chunked.elementwise import Sums, function_of
from . import configs
from .numerics import exp_reduced, expm1_excess, one_minus_exp_neg


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
    """asinh(s/2)/s for p = s^2 <= 1/2, as `scores.elementwise.ASINH_HALF`."""
    out = p * 4.76011440e-05 - 3.43898000e-04
    out = p * out + 2.34290199e-03
    out = p * out - 2.08332812e-02
    return p * out + 0.5


@triton.jit
def expm1(z):
    return z + expm1_excess(z)


@triton.jit
def inverse_deviation(logvar):
    """e^(-logvar/2), at most e^30: `scores.elementwise.DEVIATION`."""
    half = -0.5 * logvar
    return exp_reduced(tl.where(half > 30.0, 30.0, half))


@triton.jit
def maximum(a, b):
    return tl.where(a < b, b, a)


@triton.jit
def where(condition, a, b):
    return tl.where(condition, a, b)


FUNCTIONS = {
    "rsqrt": rsqrt, "reciprocal": reciprocal, "log": log, "log_complement": log_complement,
    "asinh_half_ratio": asinh_half_ratio, "exp_excess": expm1_excess, "expm1": expm1,
    "exp_complement": one_minus_exp_neg, "inverse_deviation": inverse_deviation, "maximum": maximum, "where": where,
}  # fmt: skip


@functools.cache
def compiled(function: Callable[..., Any]) -> Any:
    """A function of a score for kernels: its source and that of the functions it calls, with those above for the ones of
    `scores.elementwise`."""
    # the interpreter looks for tl in every function
    names = {**function.__globals__, **FUNCTIONS, "tl": tl}
    for name in set(function.__code__.co_names) - set(FUNCTIONS):
        if isinstance(names.get(name), types.FunctionType):
            names[name] = compiled(names[name])
    bound = types.FunctionType(function.__code__, names, function.__name__)
    # all scores use the same function names: Triton tells them apart by module and qualified name
    bound.__module__, bound.__qualname__ = function.__module__, function.__qualname__
    return triton.jit(bound)


@triton.jit(do_not_specialize=["n", "m", "width"])
def elementwise_scores(
    x, y, term_x, term_y, out, plane_x, plane_y, stride_x, stride_y, pitch, n, m, width,
    VALUE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SPAN: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """out [n, m] = sum_d VALUE(x parts, y parts) + term_x + term_y, the terms [2, n] and [2, m] in two numbers each.

    x [3, width, >= n], y [3, width, >= m]: the parts, rows contiguous, with the strides plane_x and plane_y. Sums take SPAN
    dimensions at a time: rounding errors grow more slowly than over the whole width.
    """
    tall = tl.cdiv(n, BLOCK_M)
    rows = (tl.program_id(0) % tall) * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    cols = (tl.program_id(0) // tall) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, width, SPAN):
        part = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for d in tl.range(start, tl.minimum(start + SPAN, width), loop_unroll_factor=UNROLL):
            at_x = x + d * stride_x + rows
            at_y = y + d * stride_y + cols
            part += VALUE(
                tl.load(at_x), tl.load(at_x + plane_x), tl.load(at_x + 2 * plane_x),
                tl.load(at_y), tl.load(at_y + plane_y), tl.load(at_y + 2 * plane_y),
            )  # fmt: skip
        total += part
    of_x = term_x + tl.minimum(rows, n - 1)
    of_y = term_y + tl.minimum(cols, m - 1)
    total += (tl.load(of_x) + tl.load(of_y)) + (tl.load(of_x + n) + tl.load(of_y + m))
    tl.store(out + rows.to(tl.int64) * pitch + cols, total, mask=(rows < n) & (cols < m))


@triton.jit(do_not_specialize=["n", "m", "width", "step_own", "step_other"])
def elementwise_gradients(
    own, other, grad, d_mean, d_logvar, plane_own, plane_other, stride, step_own, step_other, n, m, width,
    GRADIENT: tl.constexpr, SWAPPED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, SPAN: tl.constexpr,
    UNROLL: tl.constexpr,
):  # fmt: skip
    """d_mean, d_logvar [n, width] = sum over the m other rows of grad * GRADIENT(parts).

    own [3, >= n, stride], other [3, m, stride]: the parts, dimensions contiguous; grad is read at own row * step_own + other row
    * step_other. SWAPPED: own is y, so GRADIENT takes the other side's parts first.
    """
    tall = tl.cdiv(n, BLOCK_M)
    rows = (tl.program_id(0) % tall) * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    dims = (tl.program_id(0) // tall) * BLOCK_D + tl.arange(0, BLOCK_D)[None, :]
    here = tl.minimum(rows, n - 1) * stride + dims
    a = tl.load(own + here)
    b = tl.load(own + plane_own + here)
    c = tl.load(own + 2 * plane_own + here)
    weights = grad + tl.minimum(rows, n - 1).to(tl.int64) * step_own
    total_mean = tl.zeros((BLOCK_M, BLOCK_D), dtype=tl.float32)
    total_logvar = tl.zeros((BLOCK_M, BLOCK_D), dtype=tl.float32)
    for start in range(0, m, SPAN):
        part_mean = tl.zeros((BLOCK_M, BLOCK_D), dtype=tl.float32)
        part_logvar = tl.zeros((BLOCK_M, BLOCK_D), dtype=tl.float32)
        for j in tl.range(start, tl.minimum(start + SPAN, m), loop_unroll_factor=UNROLL):
            weight = tl.load(weights + tl.cast(j, tl.int64) * step_other)
            at = other + j * stride + dims
            e = tl.load(at)
            f = tl.load(at + plane_other)
            g = tl.load(at + 2 * plane_other)
            if SWAPPED:
                by_mean, by_logvar = GRADIENT(e, f, g, a, b, c)
            else:
                by_mean, by_logvar = GRADIENT(a, b, c, e, f, g)
            part_mean += weight * by_mean
            part_logvar += weight * by_logvar
        total_mean += part_mean
        total_logvar += part_logvar
    inside = (rows < n) & (dims < width)
    tl.store(d_mean + here, total_mean, mask=inside)
    tl.store(d_logvar + here, total_logvar, mask=inside)


def scores(score: Score, rows: Rows, out: Tensor | None) -> Tensor:
    """`Sums.scores`, in float32."""
    n, m, width = rows.shape
    function = function_of(score)
    out = rows.x[0].new_empty(n, m) if out is None else out
    form, unroll = configs.LIGHT_SCORES if function.light else configs.SCORES
    if n and m:
        x, y = _planes(rows.x, form.rows, True), _planes(rows.y, form.cols, True)
        strides = x.stride(0), y.stride(0), x.stride(1), y.stride(1), out.stride(0)
        args = (x, y, rows.term_x, rows.term_y, out, *strides, n, m, width)
        constants = {
            "VALUE": compiled(function.value), "BLOCK_M": form.rows, "BLOCK_N": form.cols,
            "SPAN": configs.SPAN, "UNROLL": unroll,
        }  # fmt: skip
        configs.launch(elementwise_scores, cdiv(n, form.rows) * cdiv(m, form.cols), args, constants, form)
    return out


def gradients(score: Score, rows: Rows, grad: Tensor, side: str) -> tuple[Tensor, Tensor]:
    """`Sums.gradients`, in float32."""
    function, swapped = function_of(score), side == "y"
    parts = (rows.y, rows.x) if swapped else (rows.x, rows.y)
    (n, width), m = parts[0][0].shape, len(parts[1][0])
    form, unroll = configs.GRADIENTS
    padded = up(width, form.cols)
    totals = [parts[0][0].new_empty(n, padded) if n and m else parts[0][0].new_zeros(n, padded) for _ in range(2)]
    if n and m and width:
        own, other = (_planes(side, form.cols, False) for side in parts)
        steps = (grad.stride(1), grad.stride(0)) if swapped else (grad.stride(0), grad.stride(1))
        args = (own, other, grad, *totals, own.stride(0), other.stride(0), padded, *steps, n, m, width)
        constants = {
            "GRADIENT": compiled(function.gradient_y if swapped else function.gradient_x), "SWAPPED": swapped,
            "BLOCK_M": form.rows, "BLOCK_D": form.cols, "SPAN": configs.SPAN, "UNROLL": unroll,
        }  # fmt: skip
        configs.launch(elementwise_gradients, cdiv(n, form.rows) * (padded // form.cols), args, constants, form)
    d_mean, d_logvar = (t if padded == width else t[:, :width].contiguous() for t in totals)
    return d_mean, d_logvar


SUMS = Sums(scores, gradients, workspace=400 << 20)
"""The kernels need many rows, hence a larger block."""
add_pairs = functools.partial(pairs.add_pairs, over_dimensions=SUMS)
"""The block primitive of elementwise scores with any objective: the kernels sum over dimensions, torch does the rest."""


def _planes(parts: Parts, unit: int, transposed: bool) -> Tensor:
    """The parts as [3, N, D], or [3, D, N] if transposed; ones, which are finite, pad the last dimension to whole units."""
    height, breadth = parts[0].shape[::-1] if transposed else parts[0].shape
    planes = parts[0].new_empty(3, height, up(breadth, unit))
    planes[..., breadth:] = 1.0
    for plane, part in zip(planes, parts, strict=True):
        plane[:, :breadth] = part.T if transposed else part
    return planes


def why_not(score: Score) -> str | None:
    """Why Triton cannot compile this elementwise score, None where it can try."""
    function = function_of(score)
    if not function.compiles:
        return f"the score {score.name!r} is given by its formula alone"
    try:
        for source in (function.value, function.gradient_x, function.gradient_y):
            compiled(source)
    except (OSError, TypeError, ValueError, SyntaxError, AttributeError) as error:
        return f"Triton finds no source for the score {score.name!r} ({error})"
    return None
