"""What every tile of the lift engine shares: its place, its scores by a matrix product, its columns part by part."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def tile_order(pid, tiles_m, tiles_n, GROUP: tl.constexpr):
    """Row and column tile of a program, in bands of GROUP row tiles, so that neighbours share operands in cache."""
    band = GROUP * tiles_n
    first = (pid // band) * GROUP
    height = tl.minimum(tiles_m - first, GROUP)
    return first + (pid % band) % height, (pid % band) // height


@triton.jit
def scores(
    phi_x, phi_y, row, col, stride_x, stride_y, width, UPCAST: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """phi_x[row] @ phi_y[col]^T in float32. The caller clamps rows past the end, and leaves their pairs out."""
    k = tl.arange(0, BLOCK_K)
    x_ptr = phi_x + row.to(tl.int64)[:, None] * stride_x + k[None, :]
    y_ptr = phi_y + col.to(tl.int64)[None, :] * stride_y + k[:, None]
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, width, BLOCK_K):
        x = tl.load(x_ptr + start, mask=k[None, :] < width - start, other=0.0)
        y = tl.load(y_ptr + start, mask=k[:, None] < width - start, other=0.0)
        if UPCAST:
            x = x.to(tl.float32)
            y = y.to(tl.float32)
        acc = tl.dot(x, y, acc, input_precision=PRECISION)
    return acc


@triton.jit
def scores_tma(
    phi_x, phi_y, first_row, first_col, width, UPCAST: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """`scores` with phi_x, phi_y as tensor descriptors: the copy engine addresses, bounds and fills with zeros."""
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, width, BLOCK_K):
        x = phi_x.load([first_row, start])
        y = phi_y.load([first_col, start])
        if UPCAST:
            x = x.to(tl.float32)
            y = y.to(tl.float32)
        acc = tl.dot(x, tl.trans(y), acc, input_precision=PRECISION)
    return acc


@triton.jit
def column_halves(acc):
    """The left and the right half of acc's columns. Both stay in the registers of the threads that hold them."""
    rows: tl.constexpr = acc.shape[0]
    half: tl.constexpr = acc.shape[1] // 2
    return tl.split(tl.permute(tl.reshape(acc, (rows, 2, half)), (0, 2, 1)))


@triton.jit
def column_part(acc, PART: tl.constexpr, PARTS: tl.constexpr):
    """Columns PART * width / PARTS onwards of acc, PARTS a power of 2 up to 16: an epilogue that walks over the parts in a
    `tl.static_range` holds the temporaries of one part alone, and so never spills."""
    tl.static_assert(PARTS <= 16)
    part = acc
    if PARTS >= 2:
        left, right = column_halves(part)
        part = left if PART < PARTS // 2 else right
    if PARTS >= 4:
        left, right = column_halves(part)
        part = left if PART % (PARTS // 2) < PARTS // 4 else right
    if PARTS >= 8:
        left, right = column_halves(part)
        part = left if PART % (PARTS // 4) < PARTS // 8 else right
    if PARTS >= 16:
        left, right = column_halves(part)
        part = left if PART % (PARTS // 8) < PARTS // 16 else right
    return part
