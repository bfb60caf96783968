"""Tile of the lift engine: scores by a matrix product, then the sigmoid objective on the float32 accumulator.

Per pair, with c = log2(e) scale: s = x.y + beta_j, z = c s + a_i, turned where the pair is positive, so that its loss is
softplus(z) in base 2 and its slope sigmoid(z). t = 2^-|z| and r = 1 / (1 + t) give both: max(z, 0) + log2(1 + t), and r or
t r. The logarithms wait: 1 + t is multiplied up, as (1 + t) - 1 so that nothing small is lost, and each row takes one
logarithm for every thread that shares it. What is ignored has z = -inf or nearly: nothing tests for it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .lift_offsets import FAR, base2
from .numerics import compose, exp2_approx, log1p_positive, reciprocal
from .tile import column_part, scores, scores_tma, tile_order

LN2 = tl.constexpr(0.6931471805599453)
SATURATED = tl.constexpr(1e-3)


@triton.jit
def strands(x, SPAN: tl.constexpr):
    """[M, W] to [M, W / SPAN, SPAN / 2, 2]: where SPAN columns lie across the warps, a thread holds axes 1 and 3."""
    return tl.reshape(x, (x.shape[0], x.shape[1] // SPAN, SPAN // 2, 2))


@triton.jit
def sums(x, SPAN: tl.constexpr):
    """Sums of x [M, W] within a thread, [M, SPAN / 2]: shuffles come once per tile, at the end."""
    return tl.sum(tl.sum(strands(x, SPAN), 1), 2)


@triton.jit
def walk(
    acc, given, c, a, b, xi, yj, row_weight, g, row_part, col_part, tile_m, tile_n, rows, cols, diagonal,
    stride_given, stride_a, stride_b, stride_g, stride_row, stride_col, tiles_n,
    POSITIVES: tl.constexpr, WIDE: tl.constexpr, NEGATIVES_ONLY: tl.constexpr, IDS: tl.constexpr, WEIGHTED: tl.constexpr,
    STORE: tl.constexpr, SUMS: tl.constexpr, STATS: tl.constexpr, FACTOR: tl.constexpr, PARTS: tl.constexpr,
    GROUPS: tl.constexpr, SPAN: tl.constexpr, TMA: tl.constexpr, NVIDIA: tl.constexpr,
    GIVEN: tl.constexpr,
):  # fmt: skip
    """The epilogue, part by part of the columns. POSITIVES False: the tile has none, and no pair asks for its sign.
    WIDE: some id of the tile needs more than 32 bits. GIVEN: `given` holds the products, acc nothing."""
    M: tl.constexpr = acc.shape[0]
    N: tl.constexpr = acc.shape[1]
    W: tl.constexpr = N // PARTS
    above = tl.zeros((M, SPAN // 2), tl.float32)
    product = tl.zeros((M, SPAN // 2), tl.float32)
    total = tl.zeros((M, SPAN // 2), tl.float32)
    dot = tl.zeros((M, SPAN // 2), tl.float32)
    hit_logit = tl.zeros((M, SPAN // 2), tl.float32)
    miss_logit = tl.zeros((M, SPAN // 2), tl.float32)
    hit_flat = tl.zeros((M, SPAN // 2), tl.float32)
    miss_flat = tl.zeros((M, SPAN // 2), tl.float32)
    # Addresses are a scalar and a small constant: vectors of pointers would not fit into registers beside the accumulator.
    line = tl.arange(0, M)
    first_row = tile_m * M
    first_col = tile_n * N
    col_out = col_part + (tile_m * GROUPS).to(tl.int64) * stride_col
    g_line = (first_row + line).to(tl.int64)[:, None] * stride_g
    offset = tl.load(a + first_row + line)
    # the column of a row's positive, -1 where that column or the row itself is padding
    match = first_row + diagonal + line
    match = tl.where((line < rows - first_row) & (match < cols), match, -1)
    if IDS:
        x_low = tl.load(xi + first_row + line)[:, None]
        if WIDE:
            x_high = tl.load(xi + stride_a + first_row + line)[:, None]
    if WEIGHTED:
        w = tl.load(row_weight + first_row + line, mask=line < rows - first_row, other=0.0)
    for part in tl.static_range(PARTS):
        start = first_col + part * W
        col = tl.arange(0, W)
        shift = tl.load(b + start + col)[None, :]
        if GIVEN:
            s = tl.load(given + start + (first_row + line).to(tl.int64)[:, None] * stride_given + col[None, :]) + shift
        else:
            s = column_part(acc, part, PARTS) + shift
        z = s * c + offset[:, None]
        logit = z
        if POSITIVES:
            if IDS:
                positive = x_low == tl.load(yj + start + col)[None, :]
                if WIDE:
                    positive = positive & (x_high == tl.load(yj + stride_b + start + col)[None, :])
            else:
                positive = (match - start)[:, None] == col[None, :]
            z = tl.where(positive, float("-inf") if NEGATIVES_ONLY else -z, z)
        high = tl.maximum(z, 0.0)
        t = exp2_approx(z - 2.0 * high, NVIDIA)
        above += sums(high, SPAN)
        product = compose(product, tl.reduce(tl.reduce(strands(t, SPAN), 1, compose), 2, compose))
        if STORE or SUMS or STATS:
            r = reciprocal(1.0 + t, NVIDIA)
            p = tl.where(z > 0.0, r, t * r)
            wg = p
            if POSITIVES:
                wg = tl.where(positive, -p, p)
            if WEIGHTED:
                wg = wg * w[:, None]
            if SUMS:
                total += sums(wg, SPAN)
                dot += sums(wg * s, SPAN)
                groups = tl.sum(tl.sum(tl.reshape(wg, (M // (16 * GROUPS), GROUPS, 16, W)), 0), 1)
                tl.store(col_out + start + (tl.arange(0, GROUPS) * stride_col)[:, None] + col[None, :], groups)
            if STORE:
                half = (wg * FACTOR).to(g.dtype if TMA else g.dtype.element_ty)
                if TMA:
                    g.store([first_row, start], half)
                else:
                    tl.store(g + start + g_line + col[None, :], half)
            if STATS:
                counted = (offset > float("-inf"))[:, None] & (tl.abs(shift) < FAR)
                if POSITIVES:
                    hit = positive & counted & (not NEGATIVES_ONLY)
                    counted = counted & (positive == 0)
                    hit_logit += sums(tl.where(hit, logit, 0.0), SPAN)
                    hit_flat += sums(tl.where(hit & (p < SATURATED), 1.0, 0.0), SPAN)
                miss_logit += sums(tl.where(counted, logit, 0.0), SPAN)
                miss_flat += sums(tl.where(counted & (p < SATURATED), 1.0, 0.0), SPAN)
    out = row_part + (tile_n.to(tl.int64) * stride_row + first_row) + line
    plane = tiles_n.to(tl.int64) * stride_row
    tl.store(out, tl.sum(above * LN2 + log1p_positive(product), 1))
    if SUMS:
        tl.store(out + plane, tl.sum(total, 1))
        tl.store(out + 2 * plane, tl.sum(dot, 1))
    if STATS:
        out += (3 if SUMS else 1) * plane
        tl.store(out, tl.sum(hit_logit, 1) * LN2)
        tl.store(out + plane, tl.sum(miss_logit, 1) * LN2)
        tl.store(out + 2 * plane, tl.sum(hit_flat, 1))
        tl.store(out + 3 * plane, tl.sum(miss_flat, 1))


@triton.jit(do_not_specialize=["rows", "cols", "diagonal", "stride_a", "stride_b"])
def sigmoid_lift_tile(
    phi_x, phi_y, scale, a, b, xi, yj, row_weight, g, row_part, col_part,
    stride_x, stride_y, stride_a, stride_b, stride_g, stride_row, stride_col, rows, cols, width, diagonal,
    NEGATIVES_ONLY: tl.constexpr, IDS: tl.constexpr, WEIGHTED: tl.constexpr, STORE: tl.constexpr, SUMS: tl.constexpr,
    STATS: tl.constexpr, FACTOR: tl.constexpr, PRECISION: tl.constexpr, PARTS: tl.constexpr, GROUPS: tl.constexpr,
    SPAN: tl.constexpr, TMA: tl.constexpr, NVIDIA: tl.constexpr, GIVEN: tl.constexpr, UPCAST: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Losses, and what else is asked for, of one BLOCK_M x BLOCK_N tile of pairs; a, b, xi, yj of `sigmoid_offsets`.

    row_part [1 + 2 SUMS + 4 STATS, column tiles, stride_row]: sums over the tile's columns of loss; of w g and w g (s - alpha);
    statistics. col_part [row tiles * GROUPS, stride_col], with SUMS: sums of w g over the rows. g [.., stride_g], with STORE:
    FACTOR w g. All are padded to whole tiles, so nothing that is stored needs a mask. Without IDS, x row i and y row
    i + diagonal make a positive pair, and nothing is ignored. TMA: phi_x, phi_y, g are tensor descriptors. GIVEN:
    phi_x is not one side but the products themselves, float32 [.., stride_x], padded with what is finite.
    """
    tiles_n = tl.cdiv(cols, BLOCK_N)
    tile_m, tile_n = tile_order(tl.program_id(0), tl.cdiv(rows, BLOCK_M), tiles_n, GROUP)
    row = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    col = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    if GIVEN:
        acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    elif TMA:
        acc = scores_tma(
            phi_x, phi_y, tile_m * BLOCK_M, tile_n * BLOCK_N, width, UPCAST, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION
        )  # fmt: skip
    else:
        acc = scores(
            phi_x, phi_y, tl.minimum(row, rows - 1), tl.minimum(col, cols - 1), stride_x, stride_y, width,
            UPCAST, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION,
        )  # fmt: skip
    c = base2(scale)
    # One branch per tile, so that no pair pays for what its tile cannot need: a sign, or the upper half of an id.
    if IDS:
        high_x = tl.load(xi + stride_a + row) != 0
        high_y = tl.load(yj + stride_b + col) != 0
        rare = tl.max(high_x.to(tl.int32), 0) + tl.max(high_y.to(tl.int32), 0) > 0
    else:
        first = tile_m * BLOCK_M + diagonal
        rare = (first < tile_n * BLOCK_N + BLOCK_N) & (tile_n * BLOCK_N < first + BLOCK_M)
    if rare:
        walk(
            acc, phi_x, c, a, b, xi, yj, row_weight, g, row_part, col_part, tile_m, tile_n, rows, cols, diagonal,
            stride_x, stride_a, stride_b, stride_g, stride_row, stride_col, tiles_n,
            True, True, NEGATIVES_ONLY, IDS, WEIGHTED, STORE, SUMS, STATS, FACTOR, PARTS, GROUPS, SPAN, TMA, NVIDIA, GIVEN,
        )  # fmt: skip
    else:
        walk(
            acc, phi_x, c, a, b, xi, yj, row_weight, g, row_part, col_part, tile_m, tile_n, rows, cols, diagonal,
            stride_x, stride_a, stride_b, stride_g, stride_row, stride_col, tiles_n,
            IDS, False, NEGATIVES_ONLY, IDS, WEIGHTED, STORE, SUMS, STATS, FACTOR, PARTS, GROUPS, SPAN, TMA, NVIDIA, GIVEN,
        )  # fmt: skip
