"""What lies between the two passes of the softmax objective: partial sums of the tiles to log-sum-exps, weights and the loss."""

from __future__ import annotations

import triton
import triton.language as tl

from .softmax import FLOOR, LN2, PLANES


@triton.jit
def merge_side(part, parts, plane, state, stride, first, place, size, fresh):
    """Entries `place` of one side of a block: `parts` partial sums into the running five, and the four that gradients read."""
    inside = place < size
    to = state + first + place
    top = tl.full(place.shape, FLOOR, tl.float32)
    rest = tl.zeros(place.shape, tl.float32)
    hits = tl.zeros(place.shape, tl.float32)
    matched = tl.zeros(place.shape, tl.float32)
    count = tl.zeros(place.shape, tl.float32)
    if fresh == 0:
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
        at += PLANES * plane
    tl.store(to, top, mask=inside)
    tl.store(to + stride, rest, mask=inside)
    tl.store(to + 2 * stride, hits, mask=inside)
    tl.store(to + 3 * stride, matched, mask=inside)
    tl.store(to + 4 * stride, count, mask=inside)
    alive = count > 0.0
    total = tl.where(alive, rest + hits, 1.0)
    # A sum far below 1 has its shift far above its terms, which would flush: move the shift onto the sum.
    lift = tl.floor(tl.log2(total))
    unit = tl.exp2(-lift)
    share = tl.maximum(count, 1.0)
    tl.store(to + 5 * stride, top + lift, mask=inside)
    tl.store(to + 6 * stride, tl.where(alive, 1.0 / (total * unit), 0.0), mask=inside)
    tl.store(to + 7 * stride, tl.where(alive, rest * unit / share, 0.0), mask=inside)
    tl.store(to + 8 * stride, tl.where(count == 1.0, -1.0, hits * unit / share), mask=inside)


@triton.jit(do_not_specialize=["row_parts", "col_parts", "first_col", "rows", "cols", "fresh_rows", "fresh_cols"])
def softmax_merge(
    row_part, col_part, state, stride_row, stride_col, stride, row_parts, col_parts, first_row, first_col, rows, cols,
    fresh_rows, fresh_cols, BLOCK: tl.constexpr,
):  # fmt: skip
    """Partial sums of a block's tiles, in their order, into state [9, stride]: per row of x, then per row of y,

    the five sums, then for the gradients: shift' near log2 of the sum of all; 1 / that sum relative to shift' (0 without
    positives); rest / count and hits / count relative to shift' (the latter -1 for a single positive).
    """
    pid = tl.program_id(0)
    row_programs = tl.cdiv(rows, BLOCK)
    if pid < row_programs:
        place = pid * BLOCK + tl.arange(0, BLOCK)
        merge_side(row_part, row_parts, stride_row, state, stride, first_row, place, rows, fresh_rows)
    else:
        place = (pid - row_programs) * BLOCK + tl.arange(0, BLOCK)
        merge_side(col_part, col_parts, stride_col, state, stride, first_col, place, cols, fresh_cols)


@triton.jit
def log1p(e):
    """log(1 + e) for e >= 0 from log alone: the rounding of 1 + e is undone by the ratio."""
    w = 1.0 + e
    return tl.where(w == 1.0, e, tl.log(w) * (e / tl.where(w == 1.0, 1.0, w - 1.0)))


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
        loss = tl.where(near, spread + log1p(ratio), above + tl.log(tl.where(count > 0.0, rest + hits, 1.0)))
        losses += tl.where(count > 0.0, loss, 0.0)
        alive += (count > 0.0).to(tl.int32)
    return tl.sum(losses, 0), tl.sum(alive, 0)


@triton.jit(do_not_specialize=["rows", "cols"])
def softmax_finish(state, out, stride, first_col, rows, cols, STORED: tl.constexpr, BLOCK: tl.constexpr):
    """out [4]: the loss; what stored gradients weigh the rows and the columns with; the factor that makes them true.

    A side's weight is w = 1 / (2 its rows with a positive). G is stored as w / max(w_x, w_y) * STORED times a difference of two
    probabilities' sums: at most 2 STORED in size, whatever the batch.
    """
    loss_x, alive_x = side_loss(state, stride, 0, rows, BLOCK)
    loss_y, alive_y = side_loss(state, stride, first_col, cols, BLOCK)
    weight_x = 0.5 / tl.maximum(alive_x, 1).to(tl.float32)
    weight_y = 0.5 / tl.maximum(alive_y, 1).to(tl.float32)
    most = tl.maximum(weight_x, weight_y)
    tl.store(out, weight_x * loss_x + weight_y * loss_y)
    tl.store(out + 1, weight_x / most * STORED)
    tl.store(out + 2, weight_y / most * STORED)
    tl.store(out + 3, most / STORED)
