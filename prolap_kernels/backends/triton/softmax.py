"""The softmax objective on bilinear scores: sums of rows and columns in one pass over the tiles, gradients in another.

The second pass computes the scores again: 2 K flops a pair take 2 K / 700 ps on an H100. Writing 4 bytes and reading them back
takes 8 / 3.35 ps, as much as K = 840, so scores are never kept.

A logit in base 2 is u = log2(e) scale s. Five numbers describe the counted pairs of a row (or column): shift, any number near its
largest u; rest, the sum of 2^(u - shift) over negatives; positives, the same over positives; matched, the sum of u over these;
count, how many these are. Positives are summed apart, because 1 - p = rest / (rest + positives) of a single positive keeps
its relative accuracy where p rounds to 1, and so does -log p = log1p(rest / positives). Ignored pairs have u = -inf, so no code
tests for them. `softmax_prepare` lists the planes of the state.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...objectives.softmax import SOFTMAX
from ..blocks import block_shape, blocks, cdiv, up
from ..problem import PairOptions, PairProblem, PairSums
from . import configs
from .gemm import (
    add_product,
    aligned,
    column_part,
    constants,
    operand,
    put,
    scores,
    tile_order,
    total,
    widened,
)
from .numerics import LN2, LOG2E, SATURATED, log1p_positive

FLOOR = tl.constexpr(-1e30)
"""Shift of a row in which no pair counts: 2^(-inf - FLOOR) is 0 where 2^(-inf + inf) is NaN."""
RANGE = tl.constexpr(2.0**-90)
"""Least column sum, relative to the tile's largest logit, that is used: terms that flushed to 0 are below 2^-126 each."""
SUMS = tl.constexpr(5)


@triton.jit
def quarters(x):
    """[M, W] to [M, W/8, 4, 2]: in the accumulator's layout, axes 1 and 3 lie within a thread."""
    return tl.reshape(x, (x.shape[0], x.shape[1] // 8, 4, 2))


@triton.jit
def sums(x):
    """Sums of x [M, W] over quarters of its columns, [M, 4], within a thread: threads exchange once per tile, at the end."""
    return tl.sum(tl.sum(quarters(x), 1), 2)


@triton.jit
def holds_positive(names_x, names_y, row, first, last, WIDTH: tl.constexpr, diagonal, ids):
    """1 if rows `row` and the WIDTH columns from `last` on hold a positive pair. Most tiles hold none, and skip that work."""
    if ids:
        yj = tl.load(names_y + last + tl.arange(0, WIDTH))
        positive = tl.max((tl.load(names_x + row)[:, None] == yj[None, :]).to(tl.int32))
    else:
        positive = ((first + diagonal < last + WIDTH) & (last < first + diagonal + row.shape[0])).to(tl.int32)
    return positive


@triton.jit
def absorb(u, top, rest, positives, matched, count, names_x, names_y, row, col, missing, has_positive, out, plane):
    """Adds a part of a tile's columns to the sums [M, 4] of its rows, and stores the sums of these columns.

    One exponential serves both: 2^(u_ij - shift_j) = 2^(u_ij - most_i) 2^(most_i - shift_j), with the part's largest logit as
    shift of all its columns. A column whose sum falls below RANGE takes its own maximum and a second exponential.
    """
    q = quarters(u)
    most = tl.maximum(tl.max(tl.max(q, 1), 2), FLOOR)
    e = tl.exp2(q - most[:, None, :, None])
    peak = tl.max(most)
    part_rest = tl.sum(tl.sum(e, 1), 2)
    col_rest = tl.sum(tl.reshape(e * tl.exp2(most - peak)[:, None, :, None], u.shape), 0)
    short = tl.min(tl.where(missing, 1.0, col_rest)[None, :]) < RANGE
    part_positives = tl.zeros_like(most)
    part_matched = tl.zeros_like(most)
    part_count = tl.zeros_like(most)
    to = out + col
    if (has_positive > 0) | short:
        positive = tl.load(names_x + row)[:, None] == tl.load(names_y + col)[None, :]
        shift = tl.maximum(tl.max(u, 0), FLOOR)
        tl.store(to, shift)
        w = tl.exp2(u - shift[None, :])
        tl.store(to + plane, tl.sum(tl.where(positive, 0.0, w), 0))
        tl.store(to + 2 * plane, tl.sum(tl.where(positive, w, 0.0), 0))
        tl.store(to + 3 * plane, tl.sum(tl.where(positive, u, 0.0), 0))
        tl.store(to + 4 * plane, tl.sum(positive.to(tl.float32), 0))
        w = tl.reshape(tl.exp2(q - most[:, None, :, None]), u.shape)
        part_rest = sums(tl.where(positive, 0.0, w))
        part_positives = sums(tl.where(positive, w, 0.0))
        part_matched = sums(tl.where(positive, u, 0.0))
        part_count = sums(positive.to(tl.float32))
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
    positives = positives * old + part_positives * add
    return new, rest, positives, matched + part_matched, count + part_count


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
    acc = scores(
        phi_x, phi_y, tile_m, tile_n, rows, cols, stride_x, stride_y, width,
        TMA, UPCAST, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION,
    )  # fmt: skip
    unit = tl.load(scale) * LOG2E
    a = tl.load(state_x + 9 * stride + row)
    top = tl.full((BLOCK_M, 4), FLOOR, tl.float32)
    rest = tl.zeros((BLOCK_M, 4), tl.float32)
    positives = tl.zeros((BLOCK_M, 4), tl.float32)
    matched = tl.zeros((BLOCK_M, 4), tl.float32)
    count = tl.zeros((BLOCK_M, 4), tl.float32)
    W: tl.constexpr = BLOCK_N // PARTS
    for part in tl.static_range(PARTS):
        last = tile_n * BLOCK_N + part * W
        col = last + tl.arange(0, W)
        b = tl.load(state_y + 9 * stride + col)
        u = (column_part(acc, part, PARTS) * unit + a[:, None]) + b[None, :]
        has_positive = holds_positive(names_x, names_y, row, tile_m * BLOCK_M, last, W, diagonal, ids)
        top, rest, positives, matched, count = absorb(
            u, top, rest, positives, matched, count, names_x, names_y, row, col, b == float("-inf"), has_positive,
            col_part + tile_m.to(tl.int64) * (SUMS * stride_col), stride_col,
        )  # fmt: skip
    most = tl.max(top, 1)
    share = tl.exp2(top - most[:, None])
    to = row_part + tile_n.to(tl.int64) * (SUMS * stride_row) + row
    tl.store(to, most)
    tl.store(to + stride_row, tl.sum(rest * share, 1))
    tl.store(to + 2 * stride_row, tl.sum(positives * share, 1))
    tl.store(to + 3 * stride_row, tl.sum(matched, 1))
    tl.store(to + 4 * stride_row, tl.sum(count, 1))


@triton.jit
def shortfall(e, rest, mean):
    """A positive's e less the positives' mean and its share of the rest: p - 1/|P| without the 1 that cancels."""
    return tl.where(mean < 0.0, 0.0, e - mean) - rest


@triton.jit
def saturation(u, e, positive, gain, count, to, plane):
    """Stores the sums of `PairStats` over a part's rows: logits of positives, of negatives, saturated positives, negatives."""
    size = tl.abs(e) * gain[:, None]
    size = tl.where(positive, size * count[:, None], size)
    flat = tl.where(size < SATURATED, 1.0, 0.0)
    missing = u == float("-inf")
    logit = tl.where(missing, 0.0, u)
    flat = tl.where(missing, 0.0, flat)
    tl.store(to, tl.sum(tl.where(positive, logit, 0.0), 1) * LN2)
    tl.store(to + plane, tl.sum(tl.where(positive, 0.0, logit), 1) * LN2)
    alive = tl.where(gain > 0.0, 1.0, 0.0)
    tl.store(to + 2 * plane, tl.sum(tl.where(positive, flat, 0.0), 1) * alive)
    tl.store(to + 3 * plane, tl.sum(tl.where(positive, 0.0, flat), 1) * alive)


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
    acc = scores(
        phi_x, phi_y, tile_m, tile_n, rows, cols, stride_x, stride_y, width,
        TMA, UPCAST, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION,
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
        if holds_positive(names_x, names_y, row, tile_m * BLOCK_M, last, W, diagonal, ids) > 0:
            positive = tl.load(names_x + row)[:, None] == tl.load(names_y + col)[None, :]
            e = tl.where(
                positive, shortfall(e, tl.load(at_x + 7 * stride)[:, None], tl.load(at_x + 8 * stride)[:, None]), e
            )
            f = tl.where(
                positive, shortfall(f, tl.load(at_y + 7 * stride)[None, :], tl.load(at_y + 8 * stride)[None, :]), f
            )
        if STATS:
            positive = tl.load(names_x + row)[:, None] == tl.load(names_y + col)[None, :]
            to = stats_part + (tile_n * PARTS + part).to(tl.int64) * stride_row + row
            saturation(u, e, positive, gain, tl.load(at_x + 4 * stride), to, tiles_n.to(tl.int64) * PARTS * stride_row)
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


@triton.jit(do_not_specialize=["first_col", "rows", "cols"])
def softmax_prepare(
    alpha, beta, x_id, y_id, scale, state, names, stride, first_col, rows, cols, ALPHA: tl.constexpr, BETA: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """state [11, stride] and names [stride]: of rows, then from first_col on of columns, each padded to whole tiles.

    Planes: 0-4 the five sums, still empty; 5-8 what gradients read, see `softmax_merge`; 9 the offset in base 2, -inf for ignored
    rows and padding; 10 the offset itself, finite, since a vanished gradient times it must be 0.
    names: the ids; negative ones become -1 in rows and -2 in columns, so that they equal none.
    """
    entry = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_row = entry < first_col
    index = tl.where(is_row, entry, entry - first_col)
    in_row = is_row & (index < rows)
    in_col = (is_row == 0) & (index < cols)
    name = tl.where(is_row, tl.load(x_id + index, mask=in_row, other=-1), tl.load(y_id + index, mask=in_col, other=-1))
    offset = tl.zeros((BLOCK,), tl.float32)
    if ALPHA:
        offset += tl.load(alpha + index, mask=in_row, other=0.0)
    if BETA:
        offset += tl.load(beta + index, mask=in_col, other=0.0)
    unit = tl.load(scale) * LOG2E
    inside = entry < stride
    to = state + entry
    tl.store(names + entry, tl.where(name >= 0, name, tl.where(is_row, -1, -2)), mask=inside)
    for plane in tl.static_range(9):
        tl.store(to + plane * stride, tl.full((BLOCK,), FLOOR if plane == 0 else 0.0, tl.float32), mask=inside)
    tl.store(to + 9 * stride, tl.where(name >= 0, offset * unit, float("-inf")), mask=inside)
    bounded = tl.where(offset < FLOOR, FLOOR, tl.where(offset > -FLOOR, -FLOOR, offset))
    tl.store(to + 10 * stride, tl.where(name >= 0, bounded, 0.0), mask=inside)


@triton.jit
def merge_side(part, parts, plane, to, stride, entry, size):
    """Adds `parts` partial sums, in order, to the five of one side's entries `entry`; derives the four that gradients read."""
    inside = entry < size
    to += entry
    top = tl.load(to, mask=inside, other=0.0)
    rest = tl.load(to + stride, mask=inside, other=0.0)
    positives = tl.load(to + 2 * stride, mask=inside, other=0.0)
    matched = tl.load(to + 3 * stride, mask=inside, other=0.0)
    count = tl.load(to + 4 * stride, mask=inside, other=0.0)
    at = part + entry
    for _ in range(parts):
        other = tl.load(at, mask=inside, other=0.0)
        new = tl.maximum(top, other)
        old = tl.exp2(top - new)
        add = tl.exp2(other - new)
        rest = rest * old + tl.load(at + plane, mask=inside, other=0.0) * add
        positives = positives * old + tl.load(at + 2 * plane, mask=inside, other=0.0) * add
        matched += tl.load(at + 3 * plane, mask=inside, other=0.0)
        count += tl.load(at + 4 * plane, mask=inside, other=0.0)
        top = new
        at += SUMS * plane
    tl.store(to, top, mask=inside)
    tl.store(to + stride, rest, mask=inside)
    tl.store(to + 2 * stride, positives, mask=inside)
    tl.store(to + 3 * stride, matched, mask=inside)
    tl.store(to + 4 * stride, count, mask=inside)
    alive = count > 0.0
    whole = tl.where(alive, rest + positives, 1.0)
    # The shift of a sum far below 1 lies far above its terms, which would flush to 0: move it onto the sum.
    lift = tl.floor(tl.log2(whole))
    unit = tl.exp2(-lift)
    share = tl.maximum(count, 1.0)
    tl.store(to + 5 * stride, top + lift, mask=inside)
    tl.store(to + 6 * stride, tl.where(alive, 1.0 / (whole * unit), 0.0), mask=inside)
    tl.store(to + 7 * stride, tl.where(alive, rest * unit / share, 0.0), mask=inside)
    tl.store(to + 8 * stride, tl.where(count == 1.0, -1.0, positives * unit / share), mask=inside)


@triton.jit(do_not_specialize=["row_parts", "col_parts", "rows", "cols"])
def softmax_merge(
    row_part, col_part, state_x, state_y, stride_row, stride_col, stride, row_parts, col_parts, rows, cols,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Adds the partial sums of a block's tiles, in their order, to planes 0-4 of the state, and derives planes 5-8 from them:

    a shift near log2 of rest + positives; relative to it 1 / (rest + positives), 0 without positives; rest / count; positives /
    count, -1 for a single positive, whose positives cancel exactly.
    """
    pid = tl.program_id(0)
    programs = tl.cdiv(rows, BLOCK)
    if pid < programs:
        merge_side(row_part, row_parts, stride_row, state_x, stride, pid * BLOCK + tl.arange(0, BLOCK), rows)
    else:
        entry = (pid - programs) * BLOCK + tl.arange(0, BLOCK)
        merge_side(col_part, col_parts, stride_col, state_y, stride, entry, cols)


@triton.jit
def side_loss(state, stride, first, size, BLOCK: tl.constexpr):
    """(sum of losses, number) of the entries with a positive. A loss: log(rest + positives) less the mean positive logit."""
    losses = tl.zeros((BLOCK,), tl.float32)
    alive = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, size, BLOCK):
        entry = start + tl.arange(0, BLOCK)
        inside = entry < size
        at = state + first + entry
        top = tl.load(at, mask=inside, other=0.0)
        rest = tl.load(at + stride, mask=inside, other=0.0)
        positives = tl.load(at + 2 * stride, mask=inside, other=1.0)
        count = tl.load(at + 4 * stride, mask=inside, other=0.0)
        above = (top - tl.load(at + 3 * stride, mask=inside, other=0.0) / tl.maximum(count, 1.0)) * LN2
        # Positives that are not negligible: their own spread, then what the negatives add, each to its own rounding.
        near = positives > rest * 1e-18
        ratio = rest / tl.where(near, positives, 1.0)
        spread = tl.where(count == 1.0, 0.0, above + tl.log(tl.where(near, positives, 1.0)))
        loss = tl.where(
            near, spread + log1p_positive(ratio), above + tl.log(tl.where(count > 0.0, rest + positives, 1.0))
        )
        losses += tl.where(count > 0.0, loss, 0.0)
        alive += (count > 0.0).to(tl.int32)
    return tl.sum(losses, 0), tl.sum(alive, 0)


@triton.jit(do_not_specialize=["rows", "cols"])
def softmax_finish(state, loss, out, stride, first_col, rows, cols, STORED: tl.constexpr, BLOCK: tl.constexpr):
    """loss [1]; out [3]: weights of rows and of columns in stored gradients, and the factor that undoes their scale.

    A side's weight is w = 1 / (2 its rows with a positive). G is stored as w / max(w_x, w_y) * STORED times a difference of two
    probabilities' sums: at most 2 STORED in size, whatever the batch.
    """
    loss_x, alive_x = side_loss(state, stride, 0, rows, BLOCK)
    loss_y, alive_y = side_loss(state, stride, first_col, cols, BLOCK)
    weight_x = 0.5 / tl.maximum(alive_x, 1).to(tl.float32)
    weight_y = 0.5 / tl.maximum(alive_y, 1).to(tl.float32)
    most = tl.maximum(weight_x, weight_y)
    tl.store(loss, weight_x * loss_x + weight_y * loss_y)
    tl.store(out, weight_x / most * STORED)
    tl.store(out + 1, weight_y / most * STORED)
    tl.store(out + 2, most / STORED)


@triton.jit(
    do_not_specialize=[
        "stride_out", "rows", "cols", "tiles_n", "tiles_m", "stats_n", "sums", "stats", "fresh_rows", "fresh_cols",
    ]
)  # fmt: skip
def softmax_collect(
    row_part, col_part, stats_part, weights, row, dot, col, out, stride_row, stride_col, stride_out,
    rows, cols, tiles_n, tiles_m, stats_n, sums, stats, fresh_rows, fresh_cols, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """row, dot [rows], col [cols] and, where stats, out [4, stride_out] of one block from `softmax_grad_tile`'s partial sums."""
    pid = tl.program_id(0)
    programs = tl.cdiv(rows, BLOCK)
    factor = tl.load(weights + 2)
    if pid < programs:
        at = pid * BLOCK + tl.arange(0, BLOCK)
        inside = at < rows
        if sums:
            value = total(row_part, tiles_n, stride_row, at, inside, CHUNK, BLOCK)
            put(row + at, value * factor, inside, fresh_rows)
            part = row_part + tiles_n.to(tl.int64) * stride_row
            put(dot + at, total(part, tiles_n, stride_row, at, inside, CHUNK, BLOCK) * factor, inside, fresh_rows)
        if stats:
            for kind in tl.static_range(4):
                part = stats_part + kind * stats_n.to(tl.int64) * stride_row
                value = total(part, stats_n, stride_row, at, inside, CHUNK, BLOCK)
                put(out + kind * stride_out + at, value, inside, fresh_rows)
    elif sums:
        at = (pid - programs) * BLOCK + tl.arange(0, BLOCK)
        inside = at < cols
        put(col + at, total(col_part, tiles_m, stride_col, at, inside, CHUNK, BLOCK) * factor, inside, fresh_cols)


_HALVES = (torch.float16, torch.bfloat16)
TILES = {
    **{("hopper", half): configs.Tile(128, 128, 64, 8, 3, 8, tma=True) for half in _HALVES},
    **{("large", half): configs.Tile(128, 128, 64, 8, 3, 8) for half in _HALVES},
    **{("small", half): configs.Tile(128, 64, 64, 8, 3, 2) for half in _HALVES},
    **{("amd", half): configs.Tile(128, 64, 64, 8, 2, 4) for half in _HALVES},
    **{(chip, torch.float32): configs.Tile(128, 64, 16, 8, 2, 4) for chip in ("hopper", "large", "small", "amd")},
}
"""Tiles of both passes: the same, so that the scores agree to the last bit. The first pass takes parts twice as wide."""
PREPARE = configs.Strip(256, 1, 4)
MERGE = configs.Strip(128, 1, 4)
FINISH = configs.Strip(1024, 1, 4)
STORED = 2.0**14
"""Scale of the stored G, over the larger weight of a side: G is at most 2^15, finite in float16, which then keeps 2^-38."""
PLANES = 11
"""Planes of the state, see `softmax_prepare`."""
PARTIAL = 1
"""Bytes of partial sums a pair that set the blocks of the first pass; it stores no G, so they are larger."""


class _Pass(NamedTuple):
    """Inputs of both passes: operands in the compiled form, `softmax_prepare`'s state and names, where columns start in them."""

    phi_x: Tensor
    phi_y: Tensor
    scale: Tensor
    state: Tensor
    names: Tensor
    first_col: int
    tile: configs.Tile
    options: PairOptions

    def sides(self, rows: slice, cols: slice) -> tuple[Any, ...]:
        x, y = self.phi_x[rows], self.phi_y[cols]
        if self.tile.tma:
            x, y = configs.descriptor(x, (self.tile.m, self.tile.k)), configs.descriptor(y, (self.tile.n, self.tile.k))
        at_x, at_y = rows.start, self.first_col + cols.start
        return x, y, self.scale, self.state[:, at_x:], self.state[:, at_y:], self.names[at_x:], self.names[at_y:]

    def sizes(self, rows: slice, cols: slice) -> tuple[int, ...]:
        shape = rows.stop - rows.start, cols.stop - cols.start
        return *shape, self.phi_x.shape[1], rows.start - cols.start, int(self.options.ids_given)

    def form(self, kernel: object, parts: int) -> dict[str, object]:
        flags = {"PRECISION": self.options.precision, "PARTS": parts, "TMA": self.tile.tma}
        return {**flags, **constants(kernel, self.tile)}


def add_pairs(problem: PairProblem, options: PairOptions, sums: PairSums, fresh: bool) -> None:
    """The block primitive (`problem.Launcher`): L = (rows + columns) / 2, a row's loss -(1/|P|) sum_{j in P} log p_ij, averaged
    over rows that have a positive.

    A bias cancels and row weights do not apply to an average: neither is read. Sums run in float32; G is rounded to phi's
    dtype for the products. Errors: `configs.launch` refuses tensors that are not on a GPU.
    """
    if not problem.phi_x.shape[0] or not problem.phi_y.shape[0]:
        if fresh:
            sums.zero_()
        return
    shared = _prepare(problem, options, operand(problem.phi_x), operand(problem.phi_y))
    loss = sums.loss if fresh else torch.empty_like(sums.loss)
    scalars = _first_pass(shared, loss)
    if not fresh:
        sums.loss.add_(loss)
    if options.grads or options.stats:
        with widened(sums, shared.phi_x.shape[1], fresh) as wide:
            _second_pass(shared, scalars, wide, fresh)


def _prepare(problem: PairProblem, options: PairOptions, phi_x: Tensor, phi_y: Tensor) -> _Pass:
    tile = TILES[configs.bilinear_kind(phi_x.device), phi_x.dtype]
    if options.stats and tile.n > 64:  # statistics take registers too
        tile = tile._replace(n=64, parts=4)
    n, m, scale = len(phi_x), len(phi_y), problem.scale.float()
    first_col = up(n, tile.m)
    stride = first_col + up(m, tile.n)
    state = scale.new_empty(PLANES, stride)
    names = problem.x_id.new_empty(stride)
    alpha, beta = (aligned(t.float()) for t in (problem.alpha, problem.beta))
    args = (alpha, beta, aligned(problem.x_id), aligned(problem.y_id), scale, state, names, stride, first_col, n, m)
    form = {"ALPHA": alpha.numel() > 0, "BETA": beta.numel() > 0, "BLOCK": PREPARE.rows}
    configs.launch(softmax_prepare, cdiv(stride, PREPARE.rows), args, form, PREPARE)
    return _Pass(phi_x, phi_y, scale, state, names, first_col, tile, options)


def _first_pass(shared: _Pass, loss: Tensor) -> Tensor:
    """Fills the state and the loss; returns the weights of rows and columns, and the factor of G."""
    state, tile, (n, m) = shared.state, shared.tile, (len(shared.phi_x), len(shared.phi_y))
    stride = state.shape[1]
    shape = block_shape(n, m, configs.WORKSPACE // PARTIAL, unit=(tile.m, tile.n))
    for rows, cols in blocks(n, m, shape):
        sides, sizes = shared.sides(rows, cols), shared.sizes(rows, cols)
        tall, wide = cdiv(sizes[0], tile.m), cdiv(sizes[1], tile.n)
        row_part, col_part = (
            state.new_empty(wide, SUMS.value, tall * tile.m),
            state.new_empty(tall, SUMS.value, wide * tile.n),
        )
        strides = shared.phi_x.stride(0), shared.phi_y.stride(0), stride, tall * tile.m, wide * tile.n
        args = (*sides, row_part, col_part, *strides, *sizes)
        configs.launch(softmax_sums_tile, tall * wide, args, shared.form(softmax_sums_tile, tile.parts // 2), tile)
        args = (row_part, col_part, sides[3], sides[4], tall * tile.m, wide * tile.n, stride, wide, tall, *sizes[:2])
        programs = cdiv(sizes[0], MERGE.rows) + cdiv(sizes[1], MERGE.rows)
        configs.launch(softmax_merge, programs, args, {"BLOCK": MERGE.rows}, MERGE)
    out = state.new_empty(3)
    form = {"STORED": STORED, "BLOCK": FINISH.rows}
    configs.launch(softmax_finish, 1, (state, loss, out, stride, shared.first_col, n, m), form, FINISH)
    return out


def _second_pass(shared: _Pass, scalars: Tensor, sums: PairSums, fresh: bool) -> None:
    phi_x, phi_y, options, tile = shared.phi_x, shared.phi_y, shared.options, shared.tile
    n, m, side = len(phi_x), len(phi_y), configs.G_SIDE
    height, breadth = block_shape(n, m, configs.WORKSPACE // phi_x.element_size(), unit=(tile.m, tile.n))
    g = phi_x.new_empty((up(height, side), up(breadth, side)) if options.need_x or options.need_y else 0)
    g[..., breadth:].zero_()  # columns that no tile writes, but products read into rows that they drop
    single = height >= n and breadth >= m
    # The library takes no factor on the device: it is applied in the end. A single block is small: our kernel takes the factor.
    scaled_later = fresh and not single and configs.vendor_products(phi_x.device, phi_x.dtype)
    add = partial(add_product, factor=None if scaled_later else scalars[2], precision=options.precision)
    for rows, cols in blocks(n, m, (height, breadth)):
        _add_block(shared, scalars, sums, g, (rows, cols), fresh)
        if sums.dphi_x.numel():
            add(g, phi_y[cols], sums.dphi_x[rows], False, fresh=fresh and cols.start == 0)
        if sums.dphi_y.numel():
            add(g, phi_x[rows], sums.dphi_y[cols], True, fresh=fresh and rows.start == 0)
    if scaled_later:
        sums.dphi_x.mul_(scalars[2])
        sums.dphi_y.mul_(scalars[2])


def _add_block(
    shared: _Pass, scalars: Tensor, sums: PairSums, g: Tensor, block: tuple[slice, slice], fresh: bool
) -> None:
    """One block's gradients by the logit into the workspace, their sums and the statistics put into or added to `sums`."""
    (rows, cols), tile, options = block, shared.tile, shared.options
    sides, sizes = shared.sides(rows, cols), shared.sizes(rows, cols)
    tall, wide = cdiv(sizes[0], tile.m), cdiv(sizes[1], tile.n)
    stride_row, stride_col = tall * tile.m, wide * tile.n
    row_part, col_part = scalars.new_empty(2, wide, stride_row), scalars.new_empty(tall, stride_col)
    stats_part = scalars.new_empty(4 if options.stats else 0, wide * tile.parts, stride_row)
    pitch = g.stride(0) if g.numel() else 0
    strides = shared.phi_x.stride(0), shared.phi_y.stride(0), shared.state.shape[1], pitch, stride_row, stride_col
    args = (*sides, scalars, g, row_part, col_part, stats_part, *strides, *sizes, int(g.numel() > 0))
    form = {"STATS": options.stats, **shared.form(softmax_grad_tile, tile.parts)}
    configs.launch(softmax_grad_tile, tall * wide, args, form, tile)
    if not (options.need_sums or options.stats):
        return
    row, dot, col, stats = sums.row[rows], sums.dot[rows], sums.col[cols], sums.stats[..., rows]
    strip = configs.FINISH
    args = (
        row_part, col_part, stats_part, scalars, row, dot, col, stats, stride_row, stride_col, len(shared.phi_x),
        *sizes[:2], wide, tall, wide * tile.parts, int(options.need_sums), int(options.stats),
        int(fresh and cols.start == 0), int(fresh and rows.start == 0),
    )  # fmt: skip
    programs = cdiv(sizes[0], strip.rows) + cdiv(sizes[1], strip.rows)
    configs.launch(softmax_collect, programs, args, {"CHUNK": strip.cols, "BLOCK": strip.rows}, strip)


SOFTMAX.launchers["triton"] = add_pairs
