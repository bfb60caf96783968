"""Scores that are sums over dimensions: a block of the matrix, and what gradients by it become for one side.

Both kernels keep what they own in registers and walk along the rest, one load a row of the other side: no atomics, no scratch.
Arithmetic bounds them, so the thread's share is a small square (4 x 4, 2 x 4) that few loads feed.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["n", "m", "width"])
def tile_scores(
    x, y, term_x, term_y, out, plane_x, plane_y, stride_x, stride_y, pitch, n, m, width,
    VALUE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SPAN: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """out [n, m] = sum_d VALUE(x parts, y parts) + term_x + term_y, the terms [2, n] and [2, m] in two numbers each.

    x [3, width, >= n], y [3, width, >= m]: parts with rows next to each other, planes plane_x and plane_y apart. Sums of SPAN
    dimensions are added up: the error grows with both roots, not with that of the width.
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
def tile_slopes(
    own, other, grad, d_mean, d_logvar, plane_own, plane_other, stride, step_own, step_other, n, m, width,
    SLOPE: tl.constexpr, SWAPPED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, SPAN: tl.constexpr,
    UNROLL: tl.constexpr,
):  # fmt: skip
    """d_mean, d_logvar [n, width] = sum over the m other rows of grad * SLOPE(parts).

    own [3, >= n, stride], other [3, m, stride]: parts with dimensions next to each other; grad is read at own row * step_own +
    other row * step_other. SWAPPED: the owner is y, so that SLOPE takes the other side's parts first.
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
                by_mean, by_logvar = SLOPE(e, f, g, a, b, c)
            else:
                by_mean, by_logvar = SLOPE(a, b, c, e, f, g)
            part_mean += weight * by_mean
            part_logvar += weight * by_logvar
        total_mean += part_mean
        total_logvar += part_logvar
    inside = (rows < n) & (dims < width)
    tl.store(d_mean + here, total_mean, mask=inside)
    tl.store(d_logvar + here, total_logvar, mask=inside)
