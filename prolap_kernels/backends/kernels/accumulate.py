"""The lift engine's gradient product: out = alpha G @ phi, or G^T @ phi, in float32, added to what is there or not."""

from __future__ import annotations

import triton
import triton.language as tl

from .tile import tile_order


@triton.jit(do_not_specialize=["alpha", "rows", "depth", "fresh"])
def accumulate(
    g, phi, out, factor, alpha, stride_g, stride_phi, stride_out, rows, depth, width, fresh,
    TRANSPOSED: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """out [rows, width] (+)= alpha factor op(g) [rows, depth] @ phi [depth, width]; op transposes if TRANSPOSED.

    factor: a pointer, or None for 1. fresh: out is written, not read. g holds zeros in whole tiles of its depth; phi's rows
    past the end are clamped and meet those zeros. What g holds in rows past the end lands in rows that are not written.
    Every output tile belongs to one program: no atomics, one fixed order of summation.
    """
    tile_m, tile_n = tile_order(tl.program_id(0), tl.cdiv(rows, BLOCK_M), tl.cdiv(width, BLOCK_N), GROUP)
    row = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    col = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, depth, BLOCK_K):
        inner = start + k
        if TRANSPOSED:
            a = tl.trans(tl.load(g + inner.to(tl.int64)[:, None] * stride_g + row[None, :]))
        else:
            a = tl.load(g + row.to(tl.int64)[:, None] * stride_g + inner[None, :])
        source = tl.minimum(inner, depth - 1).to(tl.int64)
        b = tl.load(phi + source[:, None] * stride_phi + col[None, :], mask=col[None, :] < width, other=0.0)
        if UPCAST:
            a = a.to(tl.float32)
            b = b.to(tl.float32)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    acc = acc * alpha
    if factor is not None:
        acc = acc * tl.load(factor)
    place = out + row.to(tl.int64)[:, None] * stride_out + col[None, :]
    inside = (row < rows)[:, None] & (col < width)[None, :]
    tl.store(place, tl.load(place, mask=inside & (fresh == 0), other=0.0) + acc, mask=inside)
