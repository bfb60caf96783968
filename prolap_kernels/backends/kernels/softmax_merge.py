"""What lies around the two passes of the softmax objective: state from inputs, from partial sums to weights and the loss."""

from __future__ import annotations

import triton
import triton.language as tl

from .lift_finish import put, total
from .numerics import log1p_positive
from .softmax import FLOOR, LN2, LOG2E, SUMS


@triton.jit(do_not_specialize=["first_col", "rows", "cols"])
def softmax_prepare(
    alpha, beta, x_id, y_id, scale, state, names, stride, first_col, rows, cols, ALPHA: tl.constexpr, BETA: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """state [11, stride] and names [stride] of rows 0 .. and, from first_col on, of columns, each padded to whole tiles.

    Planes: 0-4 the five sums, of nothing so far; 5-8 what gradients read, see `softmax_merge`; 9 the offset in base 2, -inf
    where a row is ignored or padding; 10 the offset itself, finite, since a vanished gradient times it must be 0.
    names: ids, but those below 0 become -1 in rows and -2 in columns, so that they equal nothing.
    """
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_row = place < first_col
    index = tl.where(is_row, place, place - first_col)
    in_row = is_row & (index < rows)
    in_col = (is_row == 0) & (index < cols)
    name = tl.where(is_row, tl.load(x_id + index, mask=in_row, other=-1), tl.load(y_id + index, mask=in_col, other=-1))
    offset = tl.zeros((BLOCK,), tl.float32)
    if ALPHA:
        offset += tl.load(alpha + index, mask=in_row, other=0.0)
    if BETA:
        offset += tl.load(beta + index, mask=in_col, other=0.0)
    unit = tl.load(scale) * LOG2E
    inside = place < stride
    to = state + place
    tl.store(names + place, tl.where(name >= 0, name, tl.where(is_row, -1, -2)), mask=inside)
    for plane in tl.static_range(9):
        tl.store(to + plane * stride, tl.full((BLOCK,), FLOOR if plane == 0 else 0.0, tl.float32), mask=inside)
    tl.store(to + 9 * stride, tl.where(name >= 0, offset * unit, float("-inf")), mask=inside)
    bounded = tl.where(offset < FLOOR, FLOOR, tl.where(offset > -FLOOR, -FLOOR, offset))
    tl.store(to + 10 * stride, tl.where(name >= 0, bounded, 0.0), mask=inside)


@triton.jit
def merge_side(part, parts, plane, to, stride, place, size):
    """Entries `place` of one side of a block: `parts` partial sums into the five, in order, and the four for gradients."""
    inside = place < size
    to += place
    top = tl.load(to, mask=inside, other=0.0)
    rest = tl.load(to + stride, mask=inside, other=0.0)
    hits = tl.load(to + 2 * stride, mask=inside, other=0.0)
    matched = tl.load(to + 3 * stride, mask=inside, other=0.0)
    count = tl.load(to + 4 * stride, mask=inside, other=0.0)
    at = part + place
    for _ in range(parts):
        other = tl.load(at, mask=inside, other=0.0)
        new = tl.maximum(top, other)
        old = tl.exp2(top - new)
        add = tl.exp2(other - new)
        rest = rest * old + tl.load(at + plane, mask=inside, other=0.0) * add
        hits = hits * old + tl.load(at + 2 * plane, mask=inside, other=0.0) * add
        matched += tl.load(at + 3 * plane, mask=inside, other=0.0)
        count += tl.load(at + 4 * plane, mask=inside, other=0.0)
        top = new
        at += SUMS * plane
    tl.store(to, top, mask=inside)
    tl.store(to + stride, rest, mask=inside)
    tl.store(to + 2 * stride, hits, mask=inside)
    tl.store(to + 3 * stride, matched, mask=inside)
    tl.store(to + 4 * stride, count, mask=inside)
    alive = count > 0.0
    whole = tl.where(alive, rest + hits, 1.0)
    # A sum far below 1 has its shift far above its terms, which would flush: move the shift onto the sum.
    lift = tl.floor(tl.log2(whole))
    unit = tl.exp2(-lift)
    share = tl.maximum(count, 1.0)
    tl.store(to + 5 * stride, top + lift, mask=inside)
    tl.store(to + 6 * stride, tl.where(alive, 1.0 / (whole * unit), 0.0), mask=inside)
    tl.store(to + 7 * stride, tl.where(alive, rest * unit / share, 0.0), mask=inside)
    tl.store(to + 8 * stride, tl.where(count == 1.0, -1.0, hits * unit / share), mask=inside)


@triton.jit(do_not_specialize=["row_parts", "col_parts", "rows", "cols"])
def softmax_merge(
    row_part, col_part, state_x, state_y, stride_row, stride_col, stride, row_parts, col_parts, rows, cols,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Partial sums of a block's tiles, in their order, into planes 0-4 of the state, and from those planes 5-8:

    a shift near log2 of the sum of all; 1 / that sum relative to it (0 without positives); rest / count and hits / count
    relative to it, the latter -1 for a single positive, whose hits cancel exactly.
    """
    pid = tl.program_id(0)
    programs = tl.cdiv(rows, BLOCK)
    if pid < programs:
        merge_side(row_part, row_parts, stride_row, state_x, stride, pid * BLOCK + tl.arange(0, BLOCK), rows)
    else:
        place = (pid - programs) * BLOCK + tl.arange(0, BLOCK)
        merge_side(col_part, col_parts, stride_col, state_y, stride, place, cols)


@triton.jit
def side_loss(state, stride, first, size, BLOCK: tl.constexpr):
    """(sum of losses, number) of the entries with a positive: log of the sum of all less the mean positive logit."""
    losses = tl.zeros((BLOCK,), tl.float32)
    alive = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, size, BLOCK):
        place = start + tl.arange(0, BLOCK)
        inside = place < size
        at = state + first + place
        top = tl.load(at, mask=inside, other=0.0)
        rest = tl.load(at + stride, mask=inside, other=0.0)
        hits = tl.load(at + 2 * stride, mask=inside, other=1.0)
        count = tl.load(at + 4 * stride, mask=inside, other=0.0)
        above = (top - tl.load(at + 3 * stride, mask=inside, other=0.0) / tl.maximum(count, 1.0)) * LN2
        # Positives that are not negligible: their own spread, then what the negatives add, each to its own rounding.
        near = hits > rest * 1e-18
        ratio = rest / tl.where(near, hits, 1.0)
        spread = tl.where(count == 1.0, 0.0, above + tl.log(tl.where(near, hits, 1.0)))
        loss = tl.where(near, spread + log1p_positive(ratio), above + tl.log(tl.where(count > 0.0, rest + hits, 1.0)))
        losses += tl.where(count > 0.0, loss, 0.0)
        alive += (count > 0.0).to(tl.int32)
    return tl.sum(losses, 0), tl.sum(alive, 0)


@triton.jit(do_not_specialize=["rows", "cols"])
def softmax_finish(state, loss, out, stride, first_col, rows, cols, STORED: tl.constexpr, BLOCK: tl.constexpr):
    """loss [1]; out [3]: what stored gradients weigh the rows and the columns with, and the factor that makes them true.

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
