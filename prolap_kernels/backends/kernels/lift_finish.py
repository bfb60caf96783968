"""From the tiles' partial sums to the rows and columns of a block: one launch, one fixed order, no atomics."""

from __future__ import annotations

import triton
import triton.language as tl

HUGE = tl.constexpr(1e27)
"""A loss beyond this came from an offset that was bounded: infinite."""


@triton.jit
def total(part, count, stride, place, inside, CHUNK: tl.constexpr, BLOCK: tl.constexpr):
    """Sums of part [count, stride] over its first axis at `place` [BLOCK], CHUNK at a time."""
    chunk = tl.arange(0, CHUNK)
    acc = tl.zeros((CHUNK, BLOCK), tl.float32)
    for start in range(0, count, CHUNK):
        at = start + chunk
        here = part + at.to(tl.int64)[:, None] * stride + place[None, :]
        acc += tl.load(here, mask=(at < count)[:, None] & inside[None, :], other=0.0)
    return tl.sum(acc, 0)


@triton.jit
def put(to, value, inside, fresh):
    """Writes where fresh, else adds; what was there is not read when fresh."""
    tl.store(to, tl.load(to, mask=inside & (fresh == 0), other=0.0) + value, mask=inside)


@triton.jit(
    do_not_specialize=[
        "rows",
        "cols",
        "tiles_n",
        "parts_m",
        "fresh_rows",
        "fresh_cols",
        "stride_stats",
        "stride_row",
        "stride_col",
    ]
)
def sigmoid_finish(
    row_part, col_part, alpha, loss, row, dot, col, stats,
    rows, cols, tiles_n, parts_m, stride_row, stride_col, stride_stats, fresh_rows, fresh_cols,
    OFFSETS: tl.constexpr, SUMS: tl.constexpr, STATS: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """loss, row, dot [rows], stats [4, stride_stats] and col [cols] of one block from `sigmoid_lift_tile`'s partial sums."""
    pid = tl.program_id(0)
    blocks = tl.cdiv(rows, BLOCK)
    if pid < blocks:
        at = pid * BLOCK + tl.arange(0, BLOCK)
        inside = at < rows
        plane = tiles_n.to(tl.int64) * stride_row
        value = total(row_part, tiles_n, stride_row, at, inside, CHUNK, BLOCK)
        put(loss + at, tl.where(value > HUGE, float("inf"), value), inside, fresh_rows)
        if SUMS:
            g = total(row_part + plane, tiles_n, stride_row, at, inside, CHUNK, BLOCK)
            gs = total(row_part + 2 * plane, tiles_n, stride_row, at, inside, CHUNK, BLOCK)
            if OFFSETS:
                # an infinite score whose gradient vanished has the limit 0, not 0 * inf
                gs += tl.where(g == 0.0, 0.0, g * tl.load(alpha + at, mask=inside, other=0.0))
            put(row + at, g, inside, fresh_rows)
            put(dot + at, gs, inside, fresh_rows)
        if STATS:
            for kind in tl.static_range(4):
                here = row_part + (kind + (3 if SUMS else 1)) * plane
                value = total(here, tiles_n, stride_row, at, inside, CHUNK, BLOCK)
                put(stats + kind * stride_stats + at, value, inside, fresh_rows)
    elif SUMS:
        at = (pid - blocks) * BLOCK + tl.arange(0, BLOCK)
        inside = at < cols
        put(col + at, total(col_part, parts_m, stride_col, at, inside, CHUNK, BLOCK), inside, fresh_cols)
