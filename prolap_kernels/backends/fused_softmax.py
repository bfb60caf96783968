"""The softmax objective by fused kernels: log-sum-exps of rows and columns in one pass over the tiles, gradients in another.

The second pass computes the scores again: 2 K flops a pair, 2 K / 700 ps on an H100. To keep 4 bytes and read them back takes
8 / 3.35 ps, as much as K = 840, so nothing is kept at any size.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import tiles
from .blocks import aligned, block_sides, blocks, constants, operand, up
from .kernels.softmax import softmax_grad_tile, softmax_sums_tile
from .kernels.softmax_merge import softmax_collect, softmax_finish, softmax_merge, softmax_prepare
from .problem import PairOptions, PairProblem, PairSums
from .products import add_product

_HALVES = (torch.float16, torch.bfloat16)
SOFTMAX = {
    **{("hopper", half): tiles.Tile(128, 128, 64, 8, 3, 8, tma=True) for half in _HALVES},
    **{("large", half): tiles.Tile(128, 128, 64, 8, 3, 8) for half in _HALVES},
    **{("small", half): tiles.Tile(128, 64, 64, 8, 3, 2) for half in _HALVES},
    **{("amd", half): tiles.Tile(128, 64, 64, 8, 2, 4) for half in _HALVES},
    **{(chip, torch.float32): tiles.Tile(128, 64, 16, 8, 2, 4) for chip in ("hopper", "large", "small", "amd")},
}
"""Tiles of both passes: the same, so that the scores agree to the last bit. The first pass takes parts twice as wide."""
PREPARE = tiles.Strip(256, 1, 4)
MERGE = tiles.Strip(128, 1, 4)
FINISH = tiles.Strip(1024, 1, 4)
STORED = 2.0**14
"""G is stored times this over the larger weight of a row: at most 2^15, so finite in float16, which then keeps 2^-38."""
SUMS, PLANES = 5, 11
PARTIAL = 1
"""Bytes of partial sums a pair that the blocks of the first pass reckon with; it stores no G, so they are larger."""


class _Pass(NamedTuple):
    """What both passes read: operands in the compiled form, `softmax_prepare`'s state and names, where columns start there."""

    phi_x: Tensor
    phi_y: Tensor
    scale: Tensor
    state: Tensor
    names: Tensor
    first_col: int
    tile: tiles.Tile
    options: PairOptions

    def sides(self, rows: slice, cols: slice) -> tuple[Any, ...]:
        x, y = self.phi_x[rows], self.phi_y[cols]
        if self.tile.tma:
            x, y = tiles.descriptor(x, (self.tile.m, self.tile.k)), tiles.descriptor(y, (self.tile.n, self.tile.k))
        at_x, at_y = rows.start, self.first_col + cols.start
        return x, y, self.scale, self.state[:, at_x:], self.state[:, at_y:], self.names[at_x:], self.names[at_y:]

    def sizes(self, rows: slice, cols: slice) -> tuple[int, ...]:
        shape = rows.stop - rows.start, cols.stop - cols.start
        return *shape, self.phi_x.shape[1], rows.start - cols.start, int(self.options.ids_given)

    def form(self, kernel: object, parts: int) -> dict[str, object]:
        flags = {"PRECISION": self.options.precision, "PARTS": parts, "TMA": self.tile.tma}
        return {**flags, **constants(kernel, self.tile)}


def softmax_lift(problem: PairProblem, options: PairOptions) -> PairSums:
    """L = (rows + columns) / 2, a row's loss -(1/|P|) sum_{j in P} log p_ij, averaged over rows that have a positive.

    A bias cancels and row weights do not apply to an average: neither is read. Sums run in float32; G is rounded to phi's
    dtype for the products. Errors: `tiles.launch` refuses tensors that are not on a GPU.
    """
    n, m, width = len(problem.phi_x), len(problem.phi_y), problem.phi_x.shape[1]
    phi_x, phi_y = operand(problem.phi_x), operand(problem.phi_y)
    make = torch.empty if n and m else torch.zeros

    def new(wanted: bool, *shape: int) -> Tensor:
        return make(shape if wanted else (0,), dtype=torch.float32, device=phi_x.device)

    need_sums = options.need_sums
    sums = PairSums(
        new(True, 1),
        new(options.need_x, *phi_x.shape),
        new(options.need_y, *phi_y.shape),
        new(need_sums, n),
        new(need_sums, m),
        new(need_sums, n),
        new(False),
        new(False),
        new(options.stats, 4, n),
    )
    if n and m:
        shared = _prepare(problem, options, phi_x, phi_y)
        scalars = _first_pass(shared, sums.loss)
        if options.grads or options.stats:
            _second_pass(shared, scalars, sums)
    if phi_x.shape[1] == width:
        return sums
    return sums._replace(dphi_x=sums.dphi_x[..., :width].contiguous(), dphi_y=sums.dphi_y[..., :width].contiguous())


def _prepare(problem: PairProblem, options: PairOptions, phi_x: Tensor, phi_y: Tensor) -> _Pass:
    tile = SOFTMAX[tiles.lift_kind(phi_x.device), phi_x.dtype]
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
    tiles.launch(softmax_prepare, -(-stride // PREPARE.rows), args, form, PREPARE)
    return _Pass(phi_x, phi_y, scale, state, names, first_col, tile, options)


def _first_pass(shared: _Pass, loss: Tensor) -> Tensor:
    """Fills the state and the loss; returns the weights of rows and columns, and the factor of G."""
    state, tile, (n, m) = shared.state, shared.tile, (len(shared.phi_x), len(shared.phi_y))
    stride = state.shape[1]
    for rows, cols in blocks(n, m, *block_sides(n, m, PARTIAL, tile)):
        sides, sizes = shared.sides(rows, cols), shared.sizes(rows, cols)
        tall, wide = -(-sizes[0] // tile.m), -(-sizes[1] // tile.n)
        row_part, col_part = state.new_empty(wide, SUMS, tall * tile.m), state.new_empty(tall, SUMS, wide * tile.n)
        strides = shared.phi_x.stride(0), shared.phi_y.stride(0), stride, tall * tile.m, wide * tile.n
        args = (*sides, row_part, col_part, *strides, *sizes)
        tiles.launch(softmax_sums_tile, tall * wide, args, shared.form(softmax_sums_tile, tile.parts // 2), tile)
        args = (row_part, col_part, sides[3], sides[4], tall * tile.m, wide * tile.n, stride, wide, tall, *sizes[:2])
        programs = -(-sizes[0] // MERGE.rows) - (-sizes[1] // MERGE.rows)
        tiles.launch(softmax_merge, programs, args, {"BLOCK": MERGE.rows}, MERGE)
    out = state.new_empty(3)
    form = {"STORED": STORED, "BLOCK": FINISH.rows}
    tiles.launch(softmax_finish, 1, (state, loss, out, stride, shared.first_col, n, m), form, FINISH)
    return out


def _second_pass(shared: _Pass, scalars: Tensor, sums: PairSums) -> None:
    phi_x, phi_y, options, tile = shared.phi_x, shared.phi_y, shared.options, shared.tile
    n, m, side = len(phi_x), len(phi_y), tiles.G_SIDE
    height, breadth = block_sides(n, m, phi_x.element_size(), tile)
    g = phi_x.new_empty((up(height, side), up(breadth, side)) if options.need_x or options.need_y else 0)
    g[..., breadth:].zero_()  # columns that no tile writes, but our products read, into rows that they drop
    single = height >= n and breadth >= m
    # The library takes no factor that lies on the device. One block is small: our kernel and no launch for the factor.
    late = not single and tiles.vendor_products(phi_x.device, phi_x.dtype)
    how: dict[str, Any] = {"factor": None if late else scalars[2], "precision": options.precision}
    for rows, cols in blocks(n, m, height, breadth):
        _slopes(shared, scalars, sums, g, (rows, cols))
        if options.need_x:
            add_product(g, phi_y[cols], sums.dphi_x[rows], False, fresh=cols.start == 0, **how)
        if options.need_y:
            add_product(g, phi_x[rows], sums.dphi_y[cols], True, fresh=rows.start == 0, **how)
    if late:
        sums.dphi_x.mul_(scalars[2])
        sums.dphi_y.mul_(scalars[2])


def _slopes(shared: _Pass, scalars: Tensor, sums: PairSums, g: Tensor, block: tuple[slice, slice]) -> None:
    """One block's gradients by the logit into the scratch, their sums and the statistics put into or added to `sums`."""
    (rows, cols), tile, options = block, shared.tile, shared.options
    sides, sizes = shared.sides(rows, cols), shared.sizes(rows, cols)
    tall, wide = -(-sizes[0] // tile.m), -(-sizes[1] // tile.n)
    stride_row, stride_col = tall * tile.m, wide * tile.n
    row_part, col_part = scalars.new_empty(2, wide, stride_row), scalars.new_empty(tall, stride_col)
    stats_part = scalars.new_empty(4 if options.stats else 0, wide * tile.parts, stride_row)
    pitch = g.stride(0) if g.numel() else 0
    strides = shared.phi_x.stride(0), shared.phi_y.stride(0), shared.state.shape[1], pitch, stride_row, stride_col
    args = (*sides, scalars, g, row_part, col_part, stats_part, *strides, *sizes, int(g.numel() > 0))
    form = {"STATS": options.stats, **shared.form(softmax_grad_tile, tile.parts)}
    tiles.launch(softmax_grad_tile, tall * wide, args, form, tile)
    if not (options.need_sums or options.stats):
        return
    some = options.need_sums, options.stats
    row, dot = (t[rows] if some[0] else t for t in (sums.row, sums.dot))
    col, stats = sums.col[cols] if some[0] else sums.col, sums.stats[:, rows] if some[1] else sums.stats
    strip = tiles.FINISH
    args = (
        row_part, col_part, stats_part, scalars, row, dot, col, stats, stride_row, stride_col, len(shared.phi_x),
        *sizes[:2], wide, tall, wide * tile.parts, int(some[0]), int(some[1]), int(cols.start == 0), int(rows.start == 0),
    )  # fmt: skip
    programs = -(-sizes[0] // strip.rows) - (-sizes[1] // strip.rows)
    tiles.launch(softmax_collect, programs, args, {"CHUNK": strip.cols, "BLOCK": strip.rows}, strip)
