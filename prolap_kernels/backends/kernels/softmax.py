"""Softmax cross-entropy over rows and columns on the float32 accumulator of the lift engine.

A logit in base 2 is u = log2(e) * scale * s. A row (or column) is known by five sums over its counted pairs, relative to a
shift that may be any number near its largest u: shift; rest = sum of 2^(u - shift) over negatives; hits = the same over
positives; matched = sum of u over positives; count of positives. Positives apart from negatives, because
1 - p = rest / (rest + hits) for a single positive keeps its relative accuracy where p rounds to 1, and so does
-log p = log1p(rest / hits).
"""

from __future__ import annotations

import triton
import triton.language as tl

from .tile import column_part, scores, tile_order

FLOOR = tl.constexpr(-1e30)
"""Shift of a row in which no pair counts: 2^(-inf - FLOOR) is 0 where 2^(-inf + inf) is NaN."""
RANGE = tl.constexpr(2.0**-90)
"""Column sums relative to the tile's largest logit are used down to here: flushed terms are below 2^-126 each."""
PLANES = tl.constexpr(5)
LN2 = tl.constexpr(0.6931471805599453)
LOG2E = tl.constexpr(1.4426950408889634)
FLAT = tl.constexpr(1e-3)
"""`problem.SATURATED`, below which a slope counts as saturated."""


@triton.jit
def offsets(offset, ids, index, size, unit):
    """Offsets in base 2; -inf where a row is past the end or ignored."""
    inside = index < size
    shift = tl.load(offset + index, mask=inside, other=0.0) * unit
    return tl.where(tl.load(ids + index, mask=inside, other=-1) >= 0, shift, float("-inf"))


@triton.jit
def positives(x_id, y_id, row, col, rows, cols):
    """Whether ids are equal; ignored and missing rows are equal to none."""
    xi = tl.load(x_id + row, mask=row < rows, other=-1)
    yj = tl.load(y_id + col, mask=col < cols, other=-2)
    return tl.where(xi < 0, -1, xi)[:, None] == tl.where(yj < 0, -2, yj)[None, :]


@triton.jit
def touches(x_id, y_id, row, col, rows, cols, diagonal):
    """1 if a tile holds a positive: most do not, and skip what only positives need."""
    if diagonal:
        x0 = tl.load(x_id + tl.min(row, 0))
        y0 = tl.load(y_id + tl.minimum(tl.min(col, 0), cols - 1))
        found = ((x0 < y0 + col.shape[0]) & (y0 < x0 + row.shape[0])).to(tl.int32)
    else:
        found = tl.max(positives(x_id, y_id, row, col, rows, cols).to(tl.int32))
    return found


@triton.jit
def absorb(
    acc, a, top, rest, hits, matched, count, x_id, beta, y_id, unit, row, col, rows, cols, diagonal, out, plane,
):  # fmt: skip
    """Adds a part of a tile's columns to the five sums of its rows, and stores those of the columns.

    One exponential serves both: 2^(u_ij - shift_j) = 2^(u_ij - most_i) 2^(most_i - shift_j) with the part's largest logit as the
    shift of all its columns. Only where a column's sum then falls below RANGE are its own maximum and a second one needed.
    """
    b = offsets(beta, y_id, col, cols, unit)
    u = (acc * unit + a[:, None]) + b[None, :]
    most = tl.maximum(tl.max(u, 1), FLOOR)
    e = tl.exp2(u - most[:, None])
    peak = tl.max(most[:, None])
    part_rest = tl.sum(e, 1)
    col_rest = tl.sum(e * tl.exp2(most - peak)[:, None], 0)
    short = tl.min(tl.where(b == float("-inf"), 1.0, col_rest)[None, :]) < RANGE
    part_hits = tl.zeros_like(most)
    part_matched = tl.zeros_like(most)
    part_count = tl.zeros_like(most)
    to = out + col
    touch = touches(x_id, y_id, row, col, rows, cols, diagonal) > 0
    if touch | short:
        shift = tl.maximum(tl.max(u, 0), FLOOR)
        tl.store(to, shift)
        hit = positives(x_id, y_id, row, col, rows, cols)
        e = tl.exp2(u - shift[None, :])
        tl.store(to + plane, tl.sum(tl.where(hit, 0.0, e), 0))
        tl.store(to + 2 * plane, tl.sum(tl.where(hit, e, 0.0), 0))
        tl.store(to + 3 * plane, tl.sum(tl.where(hit, u, 0.0), 0))
        tl.store(to + 4 * plane, tl.sum(hit.to(tl.float32), 0))
        e = tl.exp2(u - most[:, None])
        part_rest = tl.sum(tl.where(hit, 0.0, e), 1)
        part_hits = tl.sum(tl.where(hit, e, 0.0), 1)
        part_matched = tl.sum(tl.where(hit, u, 0.0), 1)
        part_count = tl.sum(hit.to(tl.float32), 1)
    else:
        nothing = tl.zeros_like(b)
        tl.store(to, nothing + peak)
        tl.store(to + plane, col_rest)
        tl.store(to + 2 * plane, nothing)
        tl.store(to + 3 * plane, nothing)
        tl.store(to + 4 * plane, nothing)
    new = tl.maximum(top, most)
    old = tl.exp2(top - new)
    add = tl.exp2(most - new)
    rest = rest * old + part_rest * add
    hits = hits * old + part_hits * add
    return new, rest, hits, matched + part_matched, count + part_count


@triton.jit(do_not_specialize=["scale", "rows", "cols", "diagonal"])
def softmax_sums_tile(
    phi_x, phi_y, alpha, beta, x_id, y_id, scale, row_part, col_part,
    stride_x, stride_y, stride_row, stride_col, rows, cols, width, diagonal,
    UPCAST: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr, PRECISION: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """The five sums of each row and column of one tile.

    row_part [column tiles, 5, stride_row], col_part [row tiles, 5, stride_col], padded to whole tiles: no store needs a mask.
    """
    tile_m, tile_n = tile_order(tl.program_id(0), tl.cdiv(rows, BLOCK_M), tl.cdiv(cols, BLOCK_N), GROUP)
    row = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    col = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    row_in = tl.minimum(row, rows - 1)
    col_in = tl.minimum(col, cols - 1)
    acc = scores(
        phi_x, phi_y, row_in, col_in, stride_x, stride_y, width, UPCAST, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION
    )  # fmt: skip
    unit = tl.load(scale) * LOG2E
    a = offsets(alpha, x_id, row, rows, unit)
    top = tl.full((BLOCK_M,), FLOOR, tl.float32)
    rest = tl.zeros((BLOCK_M,), tl.float32)
    hits = tl.zeros((BLOCK_M,), tl.float32)
    matched = tl.zeros((BLOCK_M,), tl.float32)
    count = tl.zeros((BLOCK_M,), tl.float32)
    out = col_part + tile_m.to(tl.int64) * (PLANES * stride_col)
    for part in tl.static_range(PARTS):
        col = tile_n * BLOCK_N + part * (BLOCK_N // PARTS) + tl.arange(0, BLOCK_N // PARTS)
        top, rest, hits, matched, count = absorb(
            column_part(acc, part, PARTS), a, top, rest, hits, matched, count,
            x_id, beta, y_id, unit, row, col, rows, cols, diagonal, out, stride_col,
        )  # fmt: skip
    to = row_part + tile_n.to(tl.int64) * (PLANES * stride_row) + row
    tl.store(to, top)
    tl.store(to + stride_row, rest)
    tl.store(to + 2 * stride_row, hits)
    tl.store(to + 3 * stride_row, matched)
    tl.store(to + 4 * stride_row, count)


@triton.jit
def slopes(
    acc, a, total, dot, x_id, beta, y_id, unit, row, col, rows, cols, diagonal, planes, stride, first_row, first_col,
    weights, g, stride_g, store_g, col_out, stats_out, plane, stats,
):  # fmt: skip
    """Stores the gradients of a part of a tile's columns and adds to the sums of its rows."""
    b = offsets(beta, y_id, col, cols, unit)
    u = (acc * unit + a[:, None]) + b[None, :]
    at_x = planes + first_row + tl.minimum(row, rows - 1)
    at_y = planes + first_col + tl.minimum(col, cols - 1)
    e = tl.exp2(u - tl.load(at_x)[:, None])
    f = tl.exp2(u - tl.load(at_y)[None, :])
    if touches(x_id, y_id, row, col, rows, cols, diagonal) > 0:
        hit = positives(x_id, y_id, row, col, rows, cols)
        e = tl.where(hit, shortfall(e, tl.load(at_x + 2 * stride)[:, None], tl.load(at_x + 3 * stride)[:, None]), e)
        f = tl.where(hit, shortfall(f, tl.load(at_y + 2 * stride)[None, :], tl.load(at_y + 3 * stride)[None, :]), f)
    gain_x = tl.load(at_x + stride)
    if stats:
        hit = positives(x_id, y_id, row, col, rows, cols)
        slope = tl.abs(e) * gain_x[:, None]
        slope = tl.where(hit, slope * tl.load(at_x - stride)[:, None], slope)
        flat = tl.where(slope < FLAT, 1.0, 0.0)
        missing = u == float("-inf")
        logit = tl.where(missing, 0.0, u)
        flat = tl.where(missing, 0.0, flat)
        to = stats_out + row
        tl.store(to, tl.sum(tl.where(hit, logit, 0.0), 1) * LN2)
        tl.store(to + plane, tl.sum(tl.where(hit, 0.0, logit), 1) * LN2)
        alive = tl.where(gain_x > 0.0, 1.0, 0.0)
        tl.store(to + 2 * plane, tl.sum(tl.where(hit, flat, 0.0), 1) * alive)
        tl.store(to + 3 * plane, tl.sum(tl.where(hit, 0.0, flat), 1) * alive)
    gain_y = tl.load(at_y + stride) * tl.load(weights + 2)
    wg = e * (gain_x * tl.load(weights + 1))[:, None] + f * gain_y[None, :]
    if store_g:
        tl.store(g + row.to(tl.int64)[:, None] * stride_g + col[None, :], wg.to(g.dtype.element_ty))
    tl.store(col_out + col, tl.sum(wg, 0))
    # An infinite score whose gradient vanished has the limit 0, not 0 * inf.
    s = tl.maximum(acc + tl.load(beta + tl.minimum(col, cols - 1))[None, :], FLOOR)
    return total + tl.sum(wg, 1), dot + tl.sum(wg * s, 1)


@triton.jit
def shortfall(e, rest, mean):
    """A positive's e less the mean of the positives and its share of the rest: p - 1/|P| without the 1 that cancels."""
    return tl.where(mean < 0.0, 0.0, e - mean) - rest


@triton.jit(
    do_not_specialize=["scale", "rows", "cols", "diagonal", "first_row", "first_col", "store_g", "stats"],
)
def softmax_grad_tile(
    phi_x, phi_y, alpha, beta, x_id, y_id, scale, weights, state, g, row_part, col_part, stats_part,
    stride_x, stride_y, stride, stride_g, stride_row, stride_col, first_row, first_col, rows, cols, width,
    diagonal, store_g, stats,
    UPCAST: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
    PRECISION: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Gradients by the logit of one tile, w_i (p_ij - y_ij / |P_i|) + w_j (q_ij - y_ij / |P_j|) as `weights` scale them.

    g [.., stride_g], where store_g; row_part [2, column tiles, stride_row]: sums of g and of g s over the tile's columns;
    col_part [row tiles, stride_col]: sums of g over its rows; stats_part [4, column tiles * PARTS, stride_row], where stats.
    All are padded to whole tiles. state: the four planes of `softmax_merge` that gradients read come fifth and later.
    """
    tiles_n = tl.cdiv(cols, BLOCK_N)
    tile_m, tile_n = tile_order(tl.program_id(0), tl.cdiv(rows, BLOCK_M), tiles_n, GROUP)
    row = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    col = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    row_in = tl.minimum(row, rows - 1)
    col_in = tl.minimum(col, cols - 1)
    acc = scores(
        phi_x, phi_y, row_in, col_in, stride_x, stride_y, width, UPCAST, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION
    )  # fmt: skip
    unit = tl.load(scale) * LOG2E
    a = offsets(alpha, x_id, row, rows, unit)
    total = tl.zeros((BLOCK_M,), tl.float32)
    dot = tl.zeros((BLOCK_M,), tl.float32)
    for part in tl.static_range(PARTS):
        col = tile_n * BLOCK_N + part * (BLOCK_N // PARTS) + tl.arange(0, BLOCK_N // PARTS)
        total, dot = slopes(
            column_part(acc, part, PARTS), a, total, dot, x_id, beta, y_id, unit, row, col, rows, cols, diagonal,
            state + 5 * stride, stride, first_row, first_col, weights, g, stride_g, store_g,
            col_part + tile_m.to(tl.int64) * stride_col,
            stats_part + (tile_n * PARTS + part).to(tl.int64) * stride_row, tiles_n.to(tl.int64) * PARTS * stride_row, stats,
        )  # fmt: skip
    offset = tl.load(alpha + row_in)
    dot += tl.where(total == 0.0, 0.0, total * offset)
    to = row_part + tile_n.to(tl.int64) * stride_row + row
    tl.store(to, total)
    tl.store(to + tiles_n.to(tl.int64) * stride_row, dot)
