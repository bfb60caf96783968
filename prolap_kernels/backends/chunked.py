"""The pair engine in plain torch: any device, any dtype, one bounded block at a time."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from ..gaussian import widen
from ..objectives import OBJECTIVES, Block
from ..pairs import counted_pairs, positive_pairs
from .problem import PairOptions, PairProblem, PairSums

SCRATCH = {"cpu": 64 << 20, "cuda": 100 << 20}
"""Bytes that a block's temporaries may take."""
LIVE = 6
"""Matrices of a block's size that live at once, with room for the comparison masks."""


def block_shape(n: int, m: int, itemsize: int, scratch: int) -> tuple[int, int]:
    """Rows and columns of a block: near square, at most `scratch` bytes with all its temporaries."""
    cells = max(scratch // (LIVE * itemsize), 1)
    rows = min(n, max(int(cells**0.5), cells // max(m, 1)))
    return max(rows, 1), max(min(m, cells // max(rows, 1)), 1)


def _scores(problem: PairProblem, rows: slice, cols: slice) -> Tensor:
    score = widen(problem.phi_x[rows]) @ widen(problem.phi_y[cols]).T
    if problem.alpha.numel():
        score += problem.alpha[rows, None]
    if problem.beta.numel():
        score += problem.beta[None, cols]
    return score


def _blocks(problem: PairProblem, negatives_only: bool, ids_given: bool) -> Iterator[tuple[Block, Tensor]]:
    n, m = len(problem.phi_x), len(problem.phi_y)
    scratch = SCRATCH.get(problem.phi_x.device.type, SCRATCH["cuda"])
    height, width = block_shape(n, m, problem.scale.element_size(), scratch)
    for i in range(0, n, height):
        for j in range(0, m, width):
            rows, cols = slice(i, min(i + height, n)), slice(j, min(j + width, m))
            x_id, y_id = problem.x_id[rows], problem.y_id[cols]
            positive = positive_pairs(x_id, y_id)
            counted = counted_pairs(x_id, y_id) if ids_given else None
            if negatives_only:
                counted = ~positive if counted is None else counted & ~positive
            score = _scores(problem, rows, cols)
            yield Block(rows, cols, score * problem.scale + problem.bias, positive, counted), score


def pair_sums(problem: PairProblem, options: PairOptions) -> PairSums:
    """One objective over all pairs, block by block."""
    goal = OBJECTIVES[options.objective]
    negatives_only, ids_given = options.negatives_only, options.ids_given
    n, m = len(problem.phi_x), len(problem.phi_y)
    need = need_x, need_y, need_sums = options.need_x, options.need_y, options.need_sums

    def zeros(wanted: bool, *shape: int) -> Tensor:
        return problem.scale.new_zeros(shape if wanted else 0)

    loss, statistics = goal.prepare(lambda: (block for block, _ in _blocks(problem, negatives_only, ids_given)), n, m)
    sums = PairSums(
        zeros(True, n) if loss is None else loss.to(problem.scale),
        zeros(need_x, *problem.phi_x.shape),
        zeros(need_y, *problem.phi_y.shape),
        zeros(need_sums, n),
        zeros(need_sums, m),
        zeros(need_sums, n),
        zeros(options.stats, 4, n),
    )
    if loss is not None and not any(need):
        return sums
    for block, score in _blocks(problem, negatives_only, ids_given):
        _add(sums, problem, block, score, *goal.tile(block, statistics), need)
    return sums


def _add(
    sums: PairSums,
    problem: PairProblem,
    block: Block,
    score: Tensor,
    loss: Tensor | None,
    grad: Tensor,
    need: tuple[bool, ...],
) -> None:
    rows, cols = block.rows, block.cols
    if loss is not None:
        sums.loss[rows] += loss
    if problem.row_weight.numel():
        grad *= problem.row_weight[rows, None]
    if need[0]:
        sums.dphi_x[rows].addmm_(grad, widen(problem.phi_y[cols]))
    if need[1]:
        sums.dphi_y[cols].addmm_(grad.T, widen(problem.phi_x[rows]))
    if need[2]:
        sums.row[rows] += grad.sum(1)
        sums.col[cols] += grad.sum(0)
        if block.counted is not None:  # an infinite score of a pair that does not count must not turn 0 into NaN
            score.masked_fill_(~block.counted, 0)
        sums.dot[rows] += grad.mul_(score).sum(1)
