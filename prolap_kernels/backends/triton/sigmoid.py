"""The sigmoid objective on bilinear scores: offsets, tiles of pairs, sums of their parts; kernels, then their launches.

Of each pair, with c = log2(e) scale: s = x.y + beta_j and z = c s + a_i, with its sign turned if the pair is positive. Its loss
is softplus(z) in base 2, its gradient sigmoid(z). t = 2^-|z| and r = 1 / (1 + t) give both: max(z, 0) + log2(1 + t), and r or
t r. A thread multiplies the 1 + t of its row, keeping (1 + t) - 1 so that nothing small is lost, and takes one logarithm at the
end. Ignored pairs have z = -inf or nearly, so no code tests for them.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...objectives.sigmoid import SIGMOID
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
    put_scores,
    scores,
    tile_order,
    total,
    vector,
    widened,
)
from .numerics import LN2, LOG2E, SATURATED, compose, exp2_approx, log1p_positive, reciprocal

FAR = tl.constexpr(1e30)
"""Offset of an ignored column, and the bound of all others: finite, since a vanished gradient times it must be 0."""
NEAR = tl.constexpr(1e28)
"""Bound of a row's offset in units of c, so that no row outweighs an ignored column."""
LEAST = tl.constexpr(1e-24)
"""Smallest |c|, so that c * FAR still means infinity; scores below 1e24 never notice."""


@triton.jit
def base2(scale):
    """c = log2(e) scale, kept from 0."""
    c = tl.load(scale) * LOG2E
    return tl.where(tl.abs(c) < LEAST, LEAST, c)


@triton.jit
def put_ids(ids, out, at, size, stride, ABSENT: tl.constexpr):
    """Stores each id in two planes: its lower 31 bits, which never equal ABSENT, and the rest. An id that is negative or past the
    end becomes ABSENT and 0. Returns which ids count."""
    value = tl.load(ids + at, mask=at < size, other=-1)
    counts = value >= 0
    low = tl.where(counts, value & 0x7FFFFFFF, ABSENT).to(tl.int32)
    tl.store(out + at, low)
    tl.store(out + stride + at, tl.where(counts, value >> 31, 0).to(tl.int32))
    return counts


@triton.jit(do_not_specialize=["rows", "cols", "stride_a", "stride_b"])
def sigmoid_offsets(
    alpha, beta, scale, bias, x_id, y_id, a, b, xi, yj, rows, cols, stride_a, stride_b,
    OFFSETS: tl.constexpr, IDS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """a [stride_a]: c alpha + log2(e) bias within +-c NEAR, -inf in rows that are ignored or past the end.

    b [stride_b]: beta within +-FAR, and as far as makes the logit -inf in columns that are ignored or past the end.
    xi [2, stride_a], yj [2, stride_b] int32, with IDS: the halves of the ids; those of ignored rows never equal a column's.
    The strides are multiples of BLOCK.
    """
    pid = tl.program_id(0)
    blocks = stride_a // BLOCK
    c = base2(scale)
    if pid < blocks:
        at = pid * BLOCK + tl.arange(0, BLOCK)
        inside = at < rows
        value = tl.zeros((BLOCK,), tl.float32)
        if OFFSETS:
            value = tl.load(alpha + at, mask=inside, other=0.0) * c
        value += tl.load(bias) * LOG2E
        if IDS:
            inside = put_ids(x_id, xi, at, rows, stride_a, -1)
        most = NEAR * tl.abs(c)
        value = tl.where(value > most, most, tl.where(value < -most, -most, value))
        tl.store(a + at, tl.where(inside, value, float("-inf")))
    else:
        at = (pid - blocks) * BLOCK + tl.arange(0, BLOCK)
        inside = at < cols
        value = tl.zeros((BLOCK,), tl.float32)
        if OFFSETS:
            value = tl.load(beta + at, mask=inside, other=0.0)
        if IDS:
            inside = put_ids(y_id, yj, at, cols, stride_b, -2)
        value = tl.where(value > FAR, FAR, tl.where(value < -FAR, -FAR, value))
        tl.store(b + at, tl.where(inside, value, tl.where(c < 0.0, FAR, -FAR)))


@triton.jit
def strands(x, SPAN: tl.constexpr):
    """[M, W] to [M, W / SPAN, SPAN / 2, 2]: where SPAN columns lie across the warps, a thread holds axes 1 and 3."""
    return tl.reshape(x, (x.shape[0], x.shape[1] // SPAN, SPAN // 2, 2))


@triton.jit
def sums(x, SPAN: tl.constexpr):
    """Sums of x [M, W] within a thread, [M, SPAN / 2]: threads exchange once per tile, at the end."""
    return tl.sum(tl.sum(strands(x, SPAN), 1), 2)


@triton.jit
def epilogue(
    acc, products, c, a, b, xi, yj, row_weight, g, row_part, col_part, tile_m, tile_n, rows, cols, diagonal,
    stride_products, stride_a, stride_b, stride_g, stride_row, stride_col, tiles_n,
    POSITIVES: tl.constexpr, WIDE: tl.constexpr, NEGATIVES_ONLY: tl.constexpr, IDS: tl.constexpr, WEIGHTED: tl.constexpr,
    STORE: tl.constexpr, SUMS: tl.constexpr, STATS: tl.constexpr, FACTOR: tl.constexpr, PARTS: tl.constexpr,
    GROUPS: tl.constexpr, SPAN: tl.constexpr, TMA: tl.constexpr, NVIDIA: tl.constexpr,
    GIVEN: tl.constexpr,
):  # fmt: skip
    """Losses, sums and gradients of a tile's products, one part of the columns at a time. POSITIVES: whether it may hold positive
    pairs. WIDE: whether an id needs more than 31 bits. GIVEN: the products are in `products`, and acc is unused."""
    M: tl.constexpr = acc.shape[0]
    N: tl.constexpr = acc.shape[1]
    W: tl.constexpr = N // PARTS
    above = tl.zeros((M, SPAN // 2), tl.float32)
    product = tl.zeros((M, SPAN // 2), tl.float32)
    total = tl.zeros((M, SPAN // 2), tl.float32)
    dot = tl.zeros((M, SPAN // 2), tl.float32)
    positive_logit = tl.zeros((M, SPAN // 2), tl.float32)
    negative_logit = tl.zeros((M, SPAN // 2), tl.float32)
    positive_saturated = tl.zeros((M, SPAN // 2), tl.float32)
    negative_saturated = tl.zeros((M, SPAN // 2), tl.float32)
    # Addresses are a scalar and a constant: vectors of pointers would not fit into registers beside the accumulator.
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
            at = start + (first_row + line).to(tl.int64)[:, None] * stride_products + col[None, :]
            s = tl.load(products + at) + shift
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
                    kept = positive & counted & (not NEGATIVES_ONLY)
                    counted = counted & (positive == 0)
                    positive_logit += sums(tl.where(kept, logit, 0.0), SPAN)
                    positive_saturated += sums(tl.where(kept & (p < SATURATED), 1.0, 0.0), SPAN)
                negative_logit += sums(tl.where(counted, logit, 0.0), SPAN)
                negative_saturated += sums(tl.where(counted & (p < SATURATED), 1.0, 0.0), SPAN)
    out = row_part + (tile_n.to(tl.int64) * stride_row + first_row) + line
    plane = tiles_n.to(tl.int64) * stride_row
    tl.store(out, tl.sum(above * LN2 + log1p_positive(product), 1))
    if SUMS:
        tl.store(out + plane, tl.sum(total, 1))
        tl.store(out + 2 * plane, tl.sum(dot, 1))
    if STATS:
        out += (3 if SUMS else 1) * plane
        tl.store(out, tl.sum(positive_logit, 1) * LN2)
        tl.store(out + plane, tl.sum(negative_logit, 1) * LN2)
        tl.store(out + 2 * plane, tl.sum(positive_saturated, 1))
        tl.store(out + 3 * plane, tl.sum(negative_saturated, 1))


@triton.jit(do_not_specialize=["rows", "cols", "diagonal", "stride_a", "stride_b"])
def sigmoid_tile(
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
    FACTOR w g. All are padded to whole tiles, so stores need no mask. Without IDS, x row i and y row i + diagonal make a
    positive pair, and no row is ignored. TMA: phi_x, phi_y, g are tensor descriptors. GIVEN: phi_x holds the products instead
    of one side, float32 [.., stride_x], with finite padding.
    """
    tiles_n = tl.cdiv(cols, BLOCK_N)
    tile_m, tile_n = tile_order(tl.program_id(0), tl.cdiv(rows, BLOCK_M), tiles_n, GROUP)
    if GIVEN:
        acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    else:
        acc = scores(
            phi_x, phi_y, tile_m, tile_n, rows, cols, stride_x, stride_y, width,
            TMA, UPCAST, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION,
        )  # fmt: skip
    c = base2(scale)
    # One branch per tile: pairs skip the signs and upper halves of ids that their tile cannot need.
    if IDS:
        row = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
        col = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
        high_x = tl.load(xi + stride_a + row) != 0
        high_y = tl.load(yj + stride_b + col) != 0
        rare = tl.max(high_x.to(tl.int32), 0) + tl.max(high_y.to(tl.int32), 0) > 0
    else:
        first = tile_m * BLOCK_M + diagonal
        rare = (first < tile_n * BLOCK_N + BLOCK_N) & (tile_n * BLOCK_N < first + BLOCK_M)
    if rare:
        epilogue(
            acc, phi_x, c, a, b, xi, yj, row_weight, g, row_part, col_part, tile_m, tile_n, rows, cols, diagonal,
            stride_x, stride_a, stride_b, stride_g, stride_row, stride_col, tiles_n,
            True, True, NEGATIVES_ONLY, IDS, WEIGHTED, STORE, SUMS, STATS, FACTOR, PARTS, GROUPS, SPAN, TMA, NVIDIA, GIVEN,
        )  # fmt: skip
    else:
        epilogue(
            acc, phi_x, c, a, b, xi, yj, row_weight, g, row_part, col_part, tile_m, tile_n, rows, cols, diagonal,
            stride_x, stride_a, stride_b, stride_g, stride_row, stride_col, tiles_n,
            IDS, False, NEGATIVES_ONLY, IDS, WEIGHTED, STORE, SUMS, STATS, FACTOR, PARTS, GROUPS, SPAN, TMA, NVIDIA, GIVEN,
        )  # fmt: skip


HUGE = tl.constexpr(1e27)
"""A loss beyond this came from a bounded offset and is infinite."""


@triton.jit(
    do_not_specialize=[
        "rows", "cols", "tiles_n", "parts_m", "fresh_rows", "fresh_cols", "stride_stats", "stride_row", "stride_col",
    ]
)  # fmt: skip
def sigmoid_finish(
    row_part, col_part, alpha, loss, row, dot, col, stats,
    rows, cols, tiles_n, parts_m, stride_row, stride_col, stride_stats, fresh_rows, fresh_cols,
    OFFSETS: tl.constexpr, SUMS: tl.constexpr, STATS: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """loss, row, dot [rows], stats [4, stride_stats] and col [cols] of one block from `sigmoid_tile`'s partial sums."""
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


HALF_UP = 2.0**15
"""float16 stores 2^15 g: sigmoid(-18) would flush to zero, and |g| <= 1 stays finite."""


class _Pairs(NamedTuple):
    """Operands in the one form that the kernels are compiled for; size 0 where absent."""

    phi_x: Tensor
    phi_y: Tensor
    alpha: Tensor
    row_weight: Tensor
    scale: Tensor
    a: Tensor
    b: Tensor
    xi: Tensor
    yj: Tensor
    factor: float
    tile: configs.Tile
    vendor_scores: bool
    options: PairOptions


def add_pairs(problem: PairProblem, options: PairOptions, sums: PairSums, fresh: bool) -> None:
    """The block primitive (`problem.Launcher`); phi float16, bfloat16 or float32, everything else in float32.

    loss_ij = softplus(-logit) of a positive pair, softplus(logit) of a negative one; g its derivative by the logit. The sums of
    products run on 16-bit g where phi has 16 bits; row_weight enters g in float32 before that rounding.
    """
    if problem.phi_x.dtype != torch.float16 or not problem.row_weight.numel():
        _add_unscaled(problem, options, sums, fresh)
        return
    # divided by the largest |weight|, g stays finite in float16
    top = problem.row_weight.abs().amax().float().clamp_min(1e-30)
    part = sums if fresh else PairSums.empty(problem, options)
    _add_unscaled(problem._replace(row_weight=problem.row_weight / top), options, part, True)
    for t in (part.dphi_x, part.dphi_y, part.row, part.col, part.dot):
        t.mul_(top)
    if not fresh:
        for total, t in zip(sums, part, strict=True):
            total.add_(t)


def _add_unscaled(problem: PairProblem, options: PairOptions, sums: PairSums, fresh: bool) -> None:
    if not problem.phi_x.shape[0] or not problem.phi_y.shape[0]:
        if fresh:
            sums.zero_()
        return
    pairs = _operands(problem, options)
    with widened(sums, pairs.phi_x.shape[1], fresh) as wide:
        _add_blocks(pairs, wide, fresh)


def _operands(problem: PairProblem, options: PairOptions) -> _Pairs:
    n, m, phi_x = len(problem.phi_x), len(problem.phi_y), operand(problem.phi_x)
    vendor_scores = configs.vendor_scores(phi_x.device, phi_x.dtype)
    tile = configs.GIVEN if vendor_scores else configs.bilinear_tile(phi_x.device, phi_x.dtype)
    if options.stats or problem.row_weight.numel():  # more to hold per thread
        tile = tile._replace(registers=0) if tile.tma else tile._replace(m=max(tile.m // 2, 64))
    alpha, beta, weight, scale = problem.alpha, problem.beta, problem.row_weight, problem.scale.float()
    if alpha.numel() or beta.numel():
        alpha, beta = vector(alpha, n, 0.0), vector(beta, m, 0.0)
    tall, wide = up(n, tile.m), up(m, tile.n)
    a, b = scale.new_empty(tall), scale.new_empty(wide)
    xi, yj = (scale.new_empty((2, size) if options.ids_given else 0, dtype=torch.int32) for size in (tall, wide))
    form = {"OFFSETS": alpha.numel() > 0, "IDS": options.ids_given, "BLOCK": configs.OFFSETS.rows}
    args = (
        alpha, beta, scale, problem.bias.float(), aligned(problem.x_id), aligned(problem.y_id), a, b, xi, yj,
        n, m, tall, wide,
    )  # fmt: skip
    configs.launch(sigmoid_offsets, (tall + wide) // configs.OFFSETS.rows, args, form, configs.OFFSETS)
    weight = aligned(weight.float())
    factor = HALF_UP if phi_x.dtype == torch.float16 else 1.0
    phi_y = operand(problem.phi_y)
    return _Pairs(phi_x, phi_y, alpha, weight, scale, a, b, xi, yj, factor, tile, vendor_scores, options)


def _add_blocks(pairs: _Pairs, sums: PairSums, fresh: bool) -> None:
    n, m, dtype, options = len(pairs.phi_x), len(pairs.phi_y), pairs.phi_x.dtype, pairs.options
    itemsize = dtype.itemsize + (4 if pairs.vendor_scores else 0)
    height, breadth = block_shape(n, m, configs.WORKSPACE // itemsize, unit=(pairs.tile.m, pairs.tile.n))
    stored = options.need_x or options.need_y
    # products load G in tiles of another shape: what they read past ours lands in rows that they drop
    side = max(configs.G_SIDE, pairs.tile.n)
    g = pairs.phi_x.new_empty((up(height, configs.G_SIDE), up(breadth, side)) if stored else 0)
    if stored:  # edges that no score tile writes, but products read into rows that they drop
        for edge in (g[up(height, pairs.tile.m) :], g[:, up(breadth, pairs.tile.n) :]):
            if edge.numel():
                edge.zero_()
    # padding must be finite: zeros at first, later what an earlier block left there
    padded = (up(height, side), up(breadth, side))
    products = pairs.scale.new_zeros(padded) if pairs.vendor_scores else pairs.scale.new_empty(0)
    add = partial(add_product, alpha=1.0 / pairs.factor, precision=options.precision)
    for rows, cols in blocks(n, m, (height, breadth)):
        if pairs.vendor_scores:
            put_scores(products, pairs.phi_x[rows], pairs.phi_y[cols], options.precision)
        _add_block(pairs, sums, (g, products), (rows, cols), fresh)
        if sums.dphi_x.numel():
            add(g, pairs.phi_y[cols], sums.dphi_x[rows], False, fresh=fresh and cols.start == 0)
        if sums.dphi_y.numel():
            add(g, pairs.phi_x[rows], sums.dphi_y[cols], True, fresh=fresh and rows.start == 0)


def _add_block(
    pairs: _Pairs, sums: PairSums, workspace: tuple[Tensor, Tensor], block: tuple[slice, slice], fresh: bool
) -> None:
    """One block: its losses and sums put into or added to `sums`, its g (times the factor) written into the workspace."""
    (rows, cols), tile, options, (g, products) = block, pairs.tile, pairs.options, workspace
    height, breadth = rows.stop - rows.start, cols.stop - cols.start
    tall, wide = cdiv(height, tile.m), cdiv(breadth, tile.n)
    row_part = sums.loss.new_empty(1 + 2 * options.need_sums + 4 * options.stats, wide, tall * tile.m)
    col_part = sums.loss.new_empty(tall * tile.groups if options.need_sums else 0, wide * tile.n)
    sides = [products if pairs.vendor_scores else pairs.phi_x[rows], pairs.phi_y[cols], g]
    if tile.tma:
        shapes = (tile.m, tile.k), (tile.n, tile.k), (tile.m, tile.n // tile.parts)
        sides = [configs.descriptor(t, shape) if t.numel() else t for t, shape in zip(sides, shapes, strict=True)]
    weight = pairs.row_weight[rows]
    args = (
        *sides[:2], pairs.scale, pairs.a[rows.start :], pairs.b[cols.start :], pairs.xi[..., rows.start :],
        pairs.yj[..., cols.start :], weight, sides[2], row_part, col_part,
        (products if pairs.vendor_scores else pairs.phi_x).stride(0), pairs.phi_y.stride(0), len(pairs.a), len(pairs.b),
        g.stride(0), tall * tile.m, wide * tile.n, height, breadth, pairs.phi_x.shape[1], rows.start - cols.start,
    )  # fmt: skip
    flags = {"SUMS": options.need_sums, "STATS": options.stats}
    form = {
        "NEGATIVES_ONLY": options.negatives_only, "IDS": options.ids_given, "WEIGHTED": weight.numel() > 0,
        "STORE": g.numel() > 0, "FACTOR": pairs.factor, "PRECISION": options.precision, "PARTS": tile.parts,
        "GROUPS": tile.groups, "SPAN": 8 * tile.across, "TMA": tile.tma, "GIVEN": pairs.vendor_scores,
        "NVIDIA": configs.nvidia(sigmoid_tile, pairs.scale.device), **flags, **constants(sigmoid_tile, tile),
    }  # fmt: skip
    configs.launch(sigmoid_tile, tall * wide, args, form, tile)
    args = (
        row_part, col_part, pairs.alpha[rows], sums.loss[rows], sums.row[rows], sums.dot[rows], sums.col[cols],
        sums.stats[..., rows],
        height, breadth, wide, tall * tile.groups, tall * tile.m, wide * tile.n, len(pairs.phi_x),
        int(fresh and cols.start == 0), int(fresh and rows.start == 0),
    )  # fmt: skip
    flags["OFFSETS"] = pairs.alpha.numel() > 0
    strip = configs.FINISH
    programs = cdiv(height, strip.rows) + (cdiv(breadth, strip.rows) if options.need_sums else 0)
    configs.launch(sigmoid_finish, programs, args, {**flags, "CHUNK": strip.cols, "BLOCK": strip.rows}, strip)


SIGMOID.launchers["triton"] = add_pairs
