"""The softmax objective by fused kernels: log-sum-exps of rows and columns in one pass over the tiles, gradients in the next.

The second pass computes the scores again: 2 K flops a pair, 2 K / 700 ps on an H100. To keep 4 bytes and read them back takes
8 / 3.35 ps, as much as K = 840, so nothing is kept at any size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from . import tiles
from .fused import _accumulate, _aligned, _blocks, _constants, _operand, _up, _vector, block_sides
from .kernels.softmax import softmax_grad_tile, softmax_sums_tile
from .kernels.softmax_merge import softmax_finish, softmax_merge
from .problem import PairOptions, PairProblem, PairSums

_HALVES = (torch.float16, torch.bfloat16)
SOFTMAX = {
    **{("large", half): tiles.Tile(128, 64, 64, 8, 3) for half in _HALVES},
    **{("small", half): tiles.Tile(128, 64, 64, 8, 3) for half in _HALVES},
    **{("amd", half): tiles.Tile(128, 64, 64, 8, 2) for half in _HALVES},
    **{(chip, torch.float32): tiles.Tile(128, 64, 16, 8, 2) for chip in ("large", "small", "amd")},
}
"""Tiles of both passes: the same, so that the scores agree to the last bit."""
PARTS = {"large": 2, "small": 2, "amd": 4}
"""Column parts in which an epilogue takes its tile, so that its temporaries fit the registers."""
MERGE = tiles.Strip(128, 1, 4)
FINISH = tiles.Strip(1024, 1, 4)
STORED = 2.0**14
"""G is stored times this and max(n, m) weights: at most 2^15 in size, so finite in float16, which then keeps 2^-38."""
SUMS, PLANES = 5, 9
"""What is known of each row and column: the sums of the first pass, and those with the planes that the second reads."""


class _Pairs(NamedTuple):
    """Operands in the one form that the kernels are compiled for."""

    phi_x: Tensor
    phi_y: Tensor
    alpha: Tensor
    beta: Tensor
    x_id: Tensor
    y_id: Tensor
    scale: Tensor
    diagonal: int
    precision: str


class _Block(NamedTuple):
    """A rectangle of pairs in whole tiles."""

    rows: slice
    cols: slice
    tile: tiles.Tile

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.stop - self.rows.start, self.cols.stop - self.cols.start

    @property
    def tiles(self) -> tuple[int, int]:
        height, breadth = self.shape
        return -(-height // self.tile.m), -(-breadth // self.tile.n)

    @property
    def padded(self) -> tuple[int, int]:
        tall, wide = self.tiles
        return tall * self.tile.m, wide * self.tile.n


def softmax_lift(problem: PairProblem, options: PairOptions) -> PairSums:
    """L = (rows + columns) / 2, a row's loss -(1/|P|) sum_{j in P} log p_ij, averaged over rows that have a positive.

    A bias cancels and row weights do not apply to an average: neither is read. Sums run in float32; G is rounded to phi's
    dtype for the products. Errors: `tiles.launch` refuses tensors that are not on a GPU.
    """
    n, m, width = len(problem.phi_x), len(problem.phi_y), problem.phi_x.shape[1]
    zeros = problem.scale.float().new_zeros
    pairs = _Pairs(
        _operand(problem.phi_x), _operand(problem.phi_y), _vector(problem.alpha, n, 0.0), _vector(problem.beta, m, 0.0),
        _aligned(problem.x_id), _aligned(problem.y_id), problem.scale.float(), int(not options.ids_given), options.precision,
    )  # fmt: skip
    sums = PairSums(
        zeros(1),
        zeros(pairs.phi_x.shape if options.need_x else 0),
        zeros(pairs.phi_y.shape if options.need_y else 0),
        zeros(n if options.need_sums else 0),
        zeros(m if options.need_sums else 0),
        zeros(n if options.need_sums else 0),
        zeros((4, n) if options.stats else 0),
    )
    if n and m:
        tile = SOFTMAX[tiles.chip_of(problem.phi_x.device), problem.phi_x.dtype]
        state = zeros(0).new_empty(PLANES, _up(n, tiles.G_SIDE) + _up(m, tiles.G_SIDE))
        scalars = _first_pass(pairs, state, tile)
        sums = sums._replace(loss=scalars[:1].clone())
        if options.grads or options.stats:
            _second_pass(pairs, state, scalars, sums, tile)
    return sums._replace(
        dphi_x=sums.dphi_x[..., :width].contiguous(),
        dphi_y=sums.dphi_y[..., :width].contiguous(),
    )


def _first_pass(pairs: _Pairs, state: Tensor, tile: tiles.Tile) -> Tensor:
    """Fills the state; the loss, the weights of rows and columns, and the factor of G."""
    n, m = len(pairs.phi_x), len(pairs.phi_y)
    first_col = _up(n, tiles.G_SIDE)
    for rows, cols in _blocks(n, m, *block_sides(n, m, 1, tile)):
        block = _Block(rows, cols, tile)
        (tall, wide), (height, breadth) = block.tiles, block.padded
        row_part = state.new_empty(wide, SUMS, height)
        col_part = state.new_empty(tall, SUMS, breadth)
        args = (
            *_sides(pairs, block),
            row_part,
            col_part,
            *_strides(pairs),
            height,
            breadth,
            *block.shape,
            *_rest(pairs),
        )
        tiles.launch(softmax_sums_tile, tall * wide, args, _form(softmax_sums_tile, tile, pairs), tile)
        args = (
            row_part, col_part, state, height, breadth, state.shape[1], wide, tall, rows.start, first_col + cols.start,
            *block.shape, int(cols.start == 0), int(rows.start == 0),
        )  # fmt: skip
        programs = sum(-(-side // MERGE.rows) for side in block.shape)
        tiles.launch(softmax_merge, programs, args, {"BLOCK": MERGE.rows}, MERGE)
    out = state.new_empty(4)
    constants = {"STORED": STORED, "BLOCK": FINISH.rows}
    tiles.launch(softmax_finish, 1, (state, out, state.shape[1], first_col, n, m), constants, FINISH)
    return out


def _second_pass(pairs: _Pairs, state: Tensor, scalars: Tensor, sums: PairSums, tile: tiles.Tile) -> None:
    n, m, dtype = len(pairs.phi_x), len(pairs.phi_y), pairs.phi_x.dtype
    height, breadth = block_sides(n, m, dtype.itemsize, tile)
    side, stored = tiles.G_SIDE, sums.dphi_x.numel() or sums.dphi_y.numel()
    g = pairs.phi_x.new_empty((_up(height, side), _up(breadth, side)) if stored else 0)
    g[..., breadth:].zero_()  # columns that no tile writes, but the products read, into rows that they drop
    for rows, cols in _blocks(n, m, height, breadth):
        block = _Block(rows, cols, tile)
        _slopes(pairs, state, scalars, sums, g, block)
        if sums.dphi_x.numel():
            _accumulate(g, pairs.phi_y[cols], sums.dphi_x[rows], scalars[3], False)
        if sums.dphi_y.numel():
            _accumulate(g, pairs.phi_x[rows], sums.dphi_y[cols], scalars[3], True)


def _slopes(pairs: _Pairs, state: Tensor, scalars: Tensor, sums: PairSums, g: Tensor, block: _Block) -> None:
    """One block's gradients by the logit into the scratch, their sums and the statistics added to `sums`."""
    rows, cols, tile = block
    (tall, wide), (height, breadth), (rows_in, cols_in) = block.tiles, block.padded, block.shape
    row_part = state.new_empty(2, wide, height)
    col_part = state.new_empty(tall, breadth)
    stats_part = state.new_empty((4, wide * _parts(state.device), height) if sums.stats.numel() else 0)
    place = rows.start, _up(len(pairs.phi_x), tiles.G_SIDE) + cols.start
    args = (
        *_sides(pairs, block), scalars, state, g, row_part, col_part, stats_part, *_strides(pairs), state.shape[1],
        g.stride(0) if g.numel() else 0, height, breadth, *place, rows_in, cols_in, *_rest(pairs),
        int(g.numel() > 0), int(sums.stats.numel() > 0),
    )  # fmt: skip
    tiles.launch(softmax_grad_tile, tall * wide, args, _form(softmax_grad_tile, tile, pairs), tile)
    if sums.row.numel() or sums.col.numel():
        row, dot = row_part.sum(1)[:, :rows_in] * scalars[3]
        sums.row[rows] += row
        sums.dot[rows] += dot
        sums.col[cols] += col_part.sum(0)[:cols_in] * scalars[3]
    if sums.stats.numel():
        sums.stats[:, rows] += stats_part.sum(1)[:, :rows_in]


def _sides(pairs: _Pairs, block: _Block) -> tuple[Tensor, ...]:
    rows, cols, _ = block
    return (
        pairs.phi_x[rows], pairs.phi_y[cols], pairs.alpha[rows], pairs.beta[cols], pairs.x_id[rows], pairs.y_id[cols],
        pairs.scale,
    )  # fmt: skip


def _strides(pairs: _Pairs) -> tuple[int, int]:
    return pairs.phi_x.stride(0), pairs.phi_y.stride(0)


def _rest(pairs: _Pairs) -> tuple[int, int]:
    return pairs.phi_x.shape[1], pairs.diagonal


def _parts(device: torch.device) -> int:
    return PARTS[tiles.chip_of(device)]


def _form(kernel: object, tile: tiles.Tile, pairs: _Pairs) -> dict[str, object]:
    return {**_constants(kernel, tile), "PRECISION": pairs.precision, "PARTS": _parts(pairs.scale.device)}
