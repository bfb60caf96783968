"""Rows: half the trace of a diagonal covariance, and its gradient."""

from __future__ import annotations

import triton
import triton.language as tl

from .numerics import exp_reduced


@triton.jit(do_not_specialize=["rows", "width", "grad"])
def half_trace(
    logvar, out, d_logvar, stride, rows, width, grad, ROWS: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    """out [rows] = -1/2 sum_d exp(logvar); where grad, d_logvar [rows, width] = -1/2 exp(logvar)."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    row_in = tl.minimum(row, rows - 1).to(tl.int64)[:, None]
    summed = tl.zeros((ROWS, BLOCK_D), dtype=tl.float32)
    for start in range(0, width, BLOCK_D):
        col = start + tl.arange(0, BLOCK_D)[None, :]
        q = tl.load(logvar + row_in * stride + col, mask=col < width, other=float("-inf")).to(tl.float32)
        half = -0.5 * exp_any(q)
        summed += half
        if grad:
            tl.store(d_logvar + row_in * width + col, half, mask=(col < width) & inside[:, None])
    tl.store(out + row, tl.sum(summed, 1), mask=inside)


@triton.jit
def exp_any(x):
    """exp over the whole range: `exp_reduced` stops at +-120, where float32 ends at 88.7 and -103."""
    return tl.where(x > 89.0, float("inf"), tl.where(x < -104.0, 0.0, exp_reduced(tl.where(x > 89.0, 0.0, x))))
