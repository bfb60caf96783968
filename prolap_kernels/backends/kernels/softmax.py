"""Softmax cross-entropy over rows and columns on the float32 accumulator of the lift engine, in two passes.

A logit in base 2 is u = log2(e) scale s. A row (or column) is known by five sums over its counted pairs, relative to a shift that
may be any number near its largest u: shift; rest = sum of 2^(u - shift) over negatives; hits = the same over positives;
matched = sum of u over positives; count of positives. Positives apart from negatives, because 1 - p = rest / (rest + hits)
for a single positive keeps its relative accuracy where p rounds to 1, and so does -log p = log1p(rest / hits).
What is ignored has u = -inf: nothing else tests for it. Planes of the state: `softmax_prepare`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .tile import column_part, scores, scores_tma, tile_order

FLOOR = tl.constexpr(-1e30)
"""Shift of a row in which no pair counts: 2^(-inf - FLOOR) is 0 where 2^(-inf + inf) is NaN."""
RANGE = tl.constexpr(2.0**-90)
"""Column sums relative to the tile's largest logit are used down to here: the terms that flushed are below 2^-126 each."""
SUMS = tl.constexpr(5)
LN2 = tl.constexpr(0.6931471805599453)
LOG2E = tl.constexpr(1.4426950408889634)
FLAT = tl.constexpr(1e-3)
"""`stats.SATURATED`, below which a slope counts as saturated."""


@triton.jit
def quarters(x):
    """[M, W] to [M, W/8, 4, 2]: in the accumulator's layout, axes 1 and 3 lie within a thread."""
    return tl.reshape(x, (x.shape[0], x.shape[1] // 8, 4, 2))


@triton.jit
def sums(x):
    """Sums of x [M, W] over quarters of its columns, [M, 4], within a thread: shuffles come once per tile, at the end."""
    return tl.sum(tl.sum(quarters(x), 1), 2)


@triton.jit
def touches(names_x, names_y, row, first, last, WIDTH: tl.constexpr, diagonal, ids):
    """1 if rows `row` and columns last .. + WIDTH hold a positive: most tiles do not, and skip what only positives need."""
    if ids:
        yj = tl.load(names_y + last + tl.arange(0, WIDTH))
        found = tl.max((tl.load(names_x + row)[:, None] == yj[None, :]).to(tl.int32))
    else:
        found = ((first + diagonal < last + WIDTH) & (last < first + diagonal + row.shape[0])).to(tl.int32)
    return found


@triton.jit
def absorb(u, top, rest, hits, matched, count, names_x, names_y, row, col, missing, touch, out, plane):
    """Adds a part of a tile's columns to the sums [M, 4] of its rows, and stores those of the columns.

    One exponential serves both: 2^(u_ij - shift_j) = 2^(u_ij - most_i) 2^(most_i - shift_j), with the part's largest logit as the
    shift of all its columns. Only where a column's sum then falls below RANGE are its own maximum and a second one needed.
    """
    q = quarters(u)
    most = tl.maximum(tl.max(tl.max(q, 1), 2), FLOOR)
    e = tl.exp2(q - most[:, None, :, None])
    peak = tl.max(most)
    part_rest = tl.sum(tl.sum(e, 1), 2)
    col_rest = tl.sum(tl.reshape(e * tl.exp2(most - peak)[:, None, :, None], u.shape), 0)
    short = tl.min(tl.where(missing, 1.0, col_rest)[None, :]) < RANGE
    part_hits = tl.zeros_like(most)
    part_matched = tl.zeros_like(most)
    part_count = tl.zeros_like(most)
    to = out + col
    if (touch > 0) | short:
        hit = tl.load(names_x + row)[:, None] == tl.load(names_y + col)[None, :]
        shift = tl.maximum(tl.max(u, 0), FLOOR)
        tl.store(to, shift)
        w = tl.exp2(u - shift[None, :])
        tl.store(to + plane, tl.sum(tl.where(hit, 0.0, w), 0))
        tl.store(to + 2 * plane, tl.sum(tl.where(hit, w, 0.0), 0))
        tl.store(to + 3 * plane, tl.sum(tl.where(hit, u, 0.0), 0))
        tl.store(to + 4 * plane, tl.sum(hit.to(tl.float32), 0))
        w = tl.reshape(tl.exp2(q - most[:, None, :, None]), u.shape)
        part_rest = sums(tl.where(hit, 0.0, w))
        part_hits = sums(tl.where(hit, w, 0.0))
        part_matched = sums(tl.where(hit, u, 0.0))
        part_count = sums(hit.to(tl.float32))
    else:
        nothing = tl.zeros_like(col_rest)
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


@triton.jit(do_not_specialize=["rows", "cols", "diagonal", "ids"])
def softmax_sums_tile(
    phi_x, phi_y, scale, state_x, state_y, names_x, names_y, row_part, col_part,
    stride_x, stride_y, stride, stride_row, stride_col, rows, cols, width, diagonal, ids,
    PRECISION: tl.constexpr, PARTS: tl.constexpr, TMA: tl.constexpr, UPCAST: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """The first pass: the five sums of each row and column of one tile.

    row_part [column tiles, 5, stride_row], col_part [row tiles, 5, stride_col]; they, the state and the names are padded to
    whole tiles, so nothing needs a mask. ids 0: x row i and y row i + diagonal make the only positive pairs.
    """
    tile_m, tile_n = tile_order(tl.program_id(0), tl.cdiv(rows, BLOCK_M), tl.cdiv(cols, BLOCK_N), GROUP)
    row = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    if TMA:
        acc = scores_tma(
            phi_x, phi_y, tile_m * BLOCK_M, tile_n * BLOCK_N, width, UPCAST, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION
        )  # fmt: skip
    else:
        col = tl.minimum(tile_n * BLOCK_N + tl.arange(0, BLOCK_N), cols - 1)
        acc = scores(
            phi_x, phi_y, tl.minimum(row, rows - 1), col, stride_x, stride_y, width,
            UPCAST, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION,
        )  # fmt: skip
    unit = tl.load(scale) * LOG2E
    a = tl.load(state_x + 9 * stride + row)
    top = tl.full((BLOCK_M, 4), FLOOR, tl.float32)
    rest = tl.zeros((BLOCK_M, 4), tl.float32)
    hits = tl.zeros((BLOCK_M, 4), tl.float32)
    matched = tl.zeros((BLOCK_M, 4), tl.float32)
    count = tl.zeros((BLOCK_M, 4), tl.float32)
    W: tl.constexpr = BLOCK_N // PARTS
    for part in tl.static_range(PARTS):
        last = tile_n * BLOCK_N + part * W
        col = last + tl.arange(0, W)
        b = tl.load(state_y + 9 * stride + col)
        u = (column_part(acc, part, PARTS) * unit + a[:, None]) + b[None, :]
        touch = touches(names_x, names_y, row, tile_m * BLOCK_M, last, W, diagonal, ids)
        top, rest, hits, matched, count = absorb(
            u, top, rest, hits, matched, count, names_x, names_y, row, col, b == float("-inf"), touch,
            col_part + tile_m.to(tl.int64) * (SUMS * stride_col), stride_col,
        )  # fmt: skip
    most = tl.max(top, 1)
    share = tl.exp2(top - most[:, None])
    to = row_part + tile_n.to(tl.int64) * (SUMS * stride_row) + row
    tl.store(to, most)
    tl.store(to + stride_row, tl.sum(rest * share, 1))
    tl.store(to + 2 * stride_row, tl.sum(hits * share, 1))
    tl.store(to + 3 * stride_row, tl.sum(matched, 1))
    tl.store(to + 4 * stride_row, tl.sum(count, 1))


@triton.jit
def shortfall(e, rest, mean):
    """A positive's e less the mean of the positives and its share of the rest: p - 1/|P| without the 1 that cancels."""
    return tl.where(mean < 0.0, 0.0, e - mean) - rest


@triton.jit
def flatness(u, e, hit, gain, count, to, plane):
    """Stores the four statistics of a part's rows: logits of positives, of negatives, saturated ones of both."""
    slope = tl.abs(e) * gain[:, None]
    slope = tl.where(hit, slope * count[:, None], slope)
    flat = tl.where(slope < FLAT, 1.0, 0.0)
    missing = u == float("-inf")
    logit = tl.where(missing, 0.0, u)
    flat = tl.where(missing, 0.0, flat)
    tl.store(to, tl.sum(tl.where(hit, logit, 0.0), 1) * LN2)
    tl.store(to + plane, tl.sum(tl.where(hit, 0.0, logit), 1) * LN2)
    alive = tl.where(gain > 0.0, 1.0, 0.0)
    tl.store(to + 2 * plane, tl.sum(tl.where(hit, flat, 0.0), 1) * alive)
    tl.store(to + 3 * plane, tl.sum(tl.where(hit, 0.0, flat), 1) * alive)


@triton.jit(do_not_specialize=["rows", "cols", "diagonal", "ids", "store_g"])
def softmax_grad_tile(
    phi_x, phi_y, scale, state_x, state_y, names_x, names_y, weights, g, row_part, col_part, stats_part,
    stride_x, stride_y, stride, stride_g, stride_row, stride_col, rows, cols, width, diagonal, ids, store_g,
    STATS: tl.constexpr, PRECISION: tl.constexpr, PARTS: tl.constexpr, TMA: tl.constexpr, UPCAST: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """The second pass: w_i (p_ij - y_ij / |P_i|) + w_j (q_ij - y_ij / |P_j|) of one tile, w from `weights` of `softmax_finish`.

    g [.., stride_g], where store_g; row_part [2, column tiles, stride_row]: sums of g and of g s over the tile's columns;
    col_part [row tiles, stride_col]: sums of g over its rows; stats_part [4, column tiles * PARTS, stride_row], with STATS.
    """
    tiles_n = tl.cdiv(cols, BLOCK_N)
    tile_m, tile_n = tile_order(tl.program_id(0), tl.cdiv(rows, BLOCK_M), tiles_n, GROUP)
    row = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    if TMA:
        acc = scores_tma(
            phi_x, phi_y, tile_m * BLOCK_M, tile_n * BLOCK_N, width, UPCAST, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION
        )  # fmt: skip
    else:
        col = tl.minimum(tile_n * BLOCK_N + tl.arange(0, BLOCK_N), cols - 1)
        acc = scores(
            phi_x, phi_y, tl.minimum(row, rows - 1), col, stride_x, stride_y, width,
            UPCAST, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION,
        )  # fmt: skip
    unit = tl.load(scale) * LOG2E
    weight_y = tl.load(weights + 1)
    at_x = state_x + row
    a = tl.load(at_x + 9 * stride)
    shift = tl.load(at_x + 5 * stride)
    gain = tl.load(at_x + 6 * stride)
    weight = gain * tl.load(weights)
    total = tl.zeros((BLOCK_M, 4), tl.float32)
    dot = tl.zeros((BLOCK_M, 4), tl.float32)
    W: tl.constexpr = BLOCK_N // PARTS
    for part in tl.static_range(PARTS):
        last = tile_n * BLOCK_N + part * W
        col = last + tl.arange(0, W)
        at_y = state_y + col
        s = column_part(acc, part, PARTS)
        u = (s * unit + a[:, None]) + tl.load(at_y + 9 * stride)[None, :]
        e = tl.exp2(u - shift[:, None])
        f = tl.exp2(u - tl.load(at_y + 5 * stride)[None, :])
        if touches(names_x, names_y, row, tile_m * BLOCK_M, last, W, diagonal, ids) > 0:
            hit = tl.load(names_x + row)[:, None] == tl.load(names_y + col)[None, :]
            e = tl.where(hit, shortfall(e, tl.load(at_x + 7 * stride)[:, None], tl.load(at_x + 8 * stride)[:, None]), e)
            f = tl.where(hit, shortfall(f, tl.load(at_y + 7 * stride)[None, :], tl.load(at_y + 8 * stride)[None, :]), f)
        if STATS:
            hit = tl.load(names_x + row)[:, None] == tl.load(names_y + col)[None, :]
            to = stats_part + (tile_n * PARTS + part).to(tl.int64) * stride_row + row
            flatness(u, e, hit, gain, tl.load(at_x + 4 * stride), to, tiles_n.to(tl.int64) * PARTS * stride_row)
        wg = e * weight[:, None] + f * (tl.load(at_y + 6 * stride) * weight_y)[None, :]
        if store_g:
            tl.store(g + row.to(tl.int64)[:, None] * stride_g + col[None, :], wg.to(g.dtype.element_ty))
        tl.store(col_part + tile_m.to(tl.int64) * stride_col + col, tl.sum(wg, 0))
        total += sums(wg)
        dot += sums(wg * (s + tl.load(at_y + 10 * stride)[None, :]))
    g_row = tl.sum(total, 1)
    to = row_part + tile_n.to(tl.int64) * stride_row + row
    tl.store(to, g_row)
    tl.store(to + tiles_n.to(tl.int64) * stride_row, tl.sum(dot, 1) + g_row * tl.load(at_x + 10 * stride))
