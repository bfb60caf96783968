"""Launches of the fused kernels for all pairs: the lift engine with the sigmoid objective. No autograd here."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from . import tiles
from .blocks import aligned, block_sides, blocks, constants, operand, up, vector
from .fused_rows import half_trace
from .kernels.lift import sigmoid_lift_tile
from .kernels.lift_finish import sigmoid_finish
from .kernels.lift_offsets import sigmoid_offsets
from .problem import PairOptions, PairProblem, PairSums
from .products import add_product, put_scores

__all__ = ["half_trace", "pair_sums"]

HALF_UP = 2.0**15
"""float16 stores 2^15 g: sigmoid(-18) would flush to zero, and |g| <= 1 stays finite."""


class _Pairs(NamedTuple):
    """Operands of the lift engine, in the one form that the kernels are compiled for; size 0 where absent."""

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
    tile: tiles.Tile
    given: bool


def pair_sums(problem: PairProblem, options: PairOptions) -> PairSums:
    """One objective over all pairs by fused kernels; phi float16, bfloat16 or float32, everything else in float32.

    The sums of products run on 16-bit g where phi has 16 bits; row_weight enters g in float32 before that rounding.
    """
    if options.objective == "softmax":
        from .fused_softmax import softmax_lift

        return softmax_lift(problem, options)
    if problem.phi_x.dtype == torch.float16 and problem.row_weight.numel():
        # divided by the largest |weight|, g stays finite in float16
        top = problem.row_weight.abs().amax().float().clamp_min(1e-30)
        sums = sigmoid_lift(problem._replace(row_weight=problem.row_weight / top), options)
        names = ("dphi_x", "dphi_y", "row", "col", "dot")
        return sums._replace(**{name: getattr(sums, name) * top for name in names})
    return sigmoid_lift(problem, options)


def sigmoid_lift(problem: PairProblem, options: PairOptions) -> PairSums:
    """loss_ij = softplus(-logit) of a positive pair, softplus(logit) of a negative one; g its derivative by the logit."""
    n, m, width = len(problem.phi_x), len(problem.phi_y), problem.phi_x.shape[1]
    pairs = _operands(problem, options)
    make = torch.empty if n and m else torch.zeros

    def new(wanted: bool, *shape: int) -> Tensor:
        return make(shape if wanted else (0,), dtype=torch.float32, device=problem.phi_x.device)

    sums = PairSums(
        new(True, n),
        new(options.need_x, *pairs.phi_x.shape),
        new(options.need_y, *pairs.phi_y.shape),
        new(options.need_sums, n),
        new(options.need_sums, m),
        new(options.need_sums, n),
        new(False),
        new(False),
        new(options.stats, 4, n),
    )
    if n and m:
        _all_blocks(pairs, sums, options)
    if pairs.phi_x.shape[1] == width:
        return sums
    return sums._replace(dphi_x=sums.dphi_x[..., :width].contiguous(), dphi_y=sums.dphi_y[..., :width].contiguous())


def _operands(problem: PairProblem, options: PairOptions) -> _Pairs:
    n, m, phi_x = len(problem.phi_x), len(problem.phi_y), operand(problem.phi_x)
    given = tiles.vendor_scores(phi_x.device, phi_x.dtype)
    tile = tiles.GIVEN if given else tiles.lift_tile(phi_x.device, phi_x.dtype)
    if options.stats or problem.row_weight.numel():  # more to hold per thread
        tile = tile._replace(registers=0) if tile.tma else tile._replace(m=max(tile.m // 2, 64))
    alpha, beta, weight, scale = problem.alpha, problem.beta, problem.row_weight, problem.scale.float()
    if alpha.numel() or beta.numel():
        alpha, beta = vector(alpha, n, 0.0), vector(beta, m, 0.0)
    tall, wide = up(n, tile.m), up(m, tile.n)
    ids = torch.int32
    a, b = scale.new_empty(tall), scale.new_empty(wide)
    xi, yj = (scale.new_empty((2, size) if options.ids_given else 0, dtype=ids) for size in (tall, wide))
    if n and m:
        form = {"OFFSETS": alpha.numel() > 0, "IDS": options.ids_given, "BLOCK": tiles.OFFSETS.rows}
        args = (
            alpha, beta, scale, problem.bias.float(), aligned(problem.x_id), aligned(problem.y_id), a, b, xi, yj,
            n, m, tall, wide,
        )  # fmt: skip
        tiles.launch(sigmoid_offsets, (tall + wide) // tiles.OFFSETS.rows, args, form, tiles.OFFSETS)
    weight = aligned(weight.float())
    factor = HALF_UP if phi_x.dtype == torch.float16 else 1.0
    return _Pairs(phi_x, operand(problem.phi_y), alpha, weight, scale, a, b, xi, yj, factor, tile, given)


def _all_blocks(pairs: _Pairs, sums: PairSums, options: PairOptions) -> None:
    n, m, dtype = len(pairs.phi_x), len(pairs.phi_y), pairs.phi_x.dtype
    height, breadth = block_sides(n, m, dtype.itemsize + (4 if pairs.given else 0), pairs.tile)
    stored = options.need_x or options.need_y
    # our product loads G in tiles of its own: what it reads past ours lands in rows that it drops
    side = max(tiles.G_SIDE, pairs.tile.n)
    g = pairs.phi_x.new_empty((up(height, tiles.G_SIDE), up(breadth, side)) if stored else 0)
    if stored:  # what no lift tile writes but a product reads, into rows that it drops
        for edge in (g[up(height, pairs.tile.m) :], g[:, up(breadth, pairs.tile.n) :]):
            if edge.numel():
                edge.zero_()
    # zeros once: padding has to be finite, and what an earlier block leaves there is
    padded = (up(height, side), up(breadth, side))
    given = pairs.scale.new_zeros(padded) if pairs.given else pairs.scale.new_empty(0)
    add = partial(add_product, alpha=1.0 / pairs.factor, precision=options.precision)
    for rows, cols in blocks(n, m, height, breadth):
        if pairs.given:
            put_scores(given, pairs.phi_x[rows], pairs.phi_y[cols], options.precision)
        _lift_block(pairs, sums, options, (g, given), (rows, cols))
        if options.need_x:
            add(g, pairs.phi_y[cols], sums.dphi_x[rows], False, fresh=cols.start == 0)
        if options.need_y:
            add(g, pairs.phi_x[rows], sums.dphi_y[cols], True, fresh=rows.start == 0)


def _lift_block(
    pairs: _Pairs, sums: PairSums, options: PairOptions, scratch: tuple[Tensor, Tensor], block: tuple[slice, slice]
) -> None:
    """One block: its losses and sums put into or added to `sums`, its g (times the factor) written into the scratch."""
    (rows, cols), tile, (g, given) = block, pairs.tile, scratch
    height, breadth = rows.stop - rows.start, cols.stop - cols.start
    tall, wide = -(-height // tile.m), -(-breadth // tile.n)
    row_part = sums.loss.new_empty(1 + 2 * options.need_sums + 4 * options.stats, wide, tall * tile.m)
    col_part = sums.loss.new_empty(tall * tile.groups if options.need_sums else 0, wide * tile.n)
    sides = [given if pairs.given else pairs.phi_x[rows], pairs.phi_y[cols], g]
    if tile.tma:
        shapes = (tile.m, tile.k), (tile.n, tile.k), (tile.m, tile.n // tile.parts)
        sides = [tiles.descriptor(t, shape) if t.numel() else t for t, shape in zip(sides, shapes, strict=True)]
    weight = pairs.row_weight[rows]
    args = (
        *sides[:2], pairs.scale, pairs.a[rows.start :], pairs.b[cols.start :], pairs.xi[..., rows.start :],
        pairs.yj[..., cols.start :], weight, sides[2], row_part, col_part,
        (given if pairs.given else pairs.phi_x).stride(0), pairs.phi_y.stride(0), len(pairs.a), len(pairs.b), g.stride(0),
        tall * tile.m, wide * tile.n,
        height, breadth, pairs.phi_x.shape[1], rows.start - cols.start,
    )  # fmt: skip
    flags = {"SUMS": options.need_sums, "STATS": options.stats}
    form = {
        "NEGATIVES_ONLY": options.negatives_only, "IDS": options.ids_given, "WEIGHTED": weight.numel() > 0,
        "STORE": g.numel() > 0, "FACTOR": pairs.factor, "PRECISION": options.precision, "PARTS": tile.parts,
        "GROUPS": tile.groups, "SPAN": 8 * tile.across, "TMA": tile.tma, "GIVEN": pairs.given,
        "NVIDIA": tiles.nvidia(sigmoid_lift_tile, pairs.scale.device), **flags, **constants(sigmoid_lift_tile, tile),
    }  # fmt: skip
    tiles.launch(sigmoid_lift_tile, tall * wide, args, form, tile)
    stats = sums.stats[:, rows] if options.stats else sums.stats
    args = (
        row_part, col_part, pairs.alpha[rows], sums.loss[rows], sums.row[rows], sums.dot[rows], sums.col[cols], stats,
        height, breadth, wide, tall * tile.groups, tall * tile.m, wide * tile.n, len(pairs.phi_x),
        int(cols.start == 0), int(rows.start == 0),
    )  # fmt: skip
    flags["OFFSETS"] = pairs.alpha.numel() > 0
    strip = tiles.FINISH
    programs = -(-height // strip.rows) + (-(-breadth // strip.rows) if options.need_sums else 0)
    tiles.launch(sigmoid_finish, programs, args, {**flags, "CHUNK": strip.cols, "BLOCK": strip.rows}, strip)
