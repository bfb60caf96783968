"""Blocks of elementwise scores and their gradients: compiled, or eagerly in small pieces.

Memory beside a block is O((N + M) D). The N M D elements exist in registers alone, or in a bounded piece where torch is eager.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...gaussian import Gaussian, widen
from ...scores import Elementwise, Score
from ...scores.elementwise import Rows, read_rows
from ..blocks import block_shape, blocks
from . import compiled

COMPILE_CELLS = 1 << 24
"""Elements N M D from which a program is compiled: fewer take eager torch up to a second, and a compilation takes several."""
EAGER_CELLS = 1 << 20
"""Elements of an eager piece: some ten temporaries of 4 MB."""
PARTS = 8
"""Numbers that a row takes per dimension while its parts are computed: three parts, and float64 on the way."""
MATRIX_CELLS = {"cpu": 1 << 23, "cuda": 1 << 26}
"""Numbers that a block of a whole matrix may take: 32 MB in float32; 256 MB on a GPU, whose kernels need many rows."""
SHAPES = ((29, 61, 131), (7, 5, 19))
"""Rows, columns and dimensions: tracing takes the first, checks take both."""
Summed = Callable[..., Any]


class Sums(NamedTuple):
    """How a backend sums over dimensions.

    scores(score, rows, out) -> s_ij [N, M] in the dtype of the rows, written into `out` unless that is None.
    gradients(score, rows, grad, side) -> grad [N, M] * df by (mean, logvar) of `side`, "x" or "y", summed over the other side,
    without the terms that are linear in logvar.
    workspace: bytes that a block of a loss may take, None for the device's default.
    """

    scores: Callable[[Score, Rows, Tensor | None], Tensor]
    gradients: Callable[[Score, Rows, Tensor, str], tuple[Tensor, Tensor]]
    workspace: int | None = None


def function_of(score: Score) -> Elementwise:
    assert score.elementwise is not None
    return score.elementwise


def block_scores(sums: Sums, score: Score, x: Gaussian, y: Gaussian, out: Tensor | None = None) -> Tensor:
    """s_ij [N, M] in float32 (float64 for float64 means), written into `out` unless that is None."""
    return sums.scores(score, read_rows(function_of(score), x, y), out)


def block_gradients(
    sums: Sums, score: Score, x: Gaussian, y: Gaussian, grad: Tensor, side: str
) -> tuple[Tensor, Tensor]:
    """grad_ij ds_ij/d(mean, logvar) of `side`, "x" or "y", summed over the other side: [N, D] or [M, D] each."""
    function = function_of(score)
    d_mean, d_logvar = sums.gradients(score, read_rows(function, x, y), grad, side)
    linear, dim = (function.logvar_x, 1) if side == "x" else (function.logvar_y, 0)
    if linear:
        d_logvar += linear * grad.sum(dim)[:, None]
    return d_mean if function.mean_scale == 1.0 else d_mean.mul_(function.mean_scale), d_logvar


def matrix(sums: Sums, score: Score, x: Gaussian, y: Gaussian) -> Tensor:
    """The scores of all pairs, block by block."""
    out = widen(x.mean).new_empty(len(x.mean), len(y.mean))
    for i, j in _blocks(x, y):
        block_scores(sums, score, x.rows(i), y.rows(j), out[i, j])
    return out


def matrix_gradients(
    sums: Sums, score: Score, x: Gaussian, y: Gaussian, grad: Tensor, need: tuple[bool, bool]
) -> list[Tensor]:
    """`block_gradients` of all pairs by (mean, logvar) of x and of y, size 0 where not needed."""
    like, grad = widen(x.mean), grad.to(widen(x.mean).dtype)
    totals = [like.new_zeros(t.shape if needed else 0) for z, needed in zip((x, y), need, strict=True) for t in z]
    for part in _blocks(x, y):
        for k, side in enumerate("xy"):
            if need[k]:
                shares = block_gradients(sums, score, x.rows(part[0]), y.rows(part[1]), grad[part], side)
                for total, share in zip(totals[2 * k : 2 * k + 2], shares, strict=True):
                    total[part[k]] += share
    return totals


def _blocks(x: Gaussian, y: Gaussian) -> list[tuple[slice, slice]]:
    n, m, width = len(x.mean), len(y.mean), x.mean.shape[1]
    cells = MATRIX_CELLS.get(x.mean.device.type, MATRIX_CELLS["cuda"])
    return list(blocks(n, m, block_shape(n, m, cells, beside=PARTS * max(width, 1))))


def value_sums(function: Elementwise, rows: Rows) -> list[Tensor]:
    """s_ij [N, M]."""
    (a, a_low), (b, b_low) = rows.term_x, rows.term_y
    terms = (a[:, None] + b[None]) + (a_low[:, None] + b_low[None])
    return [function.value(*rows.pairs()).sum(-1) + terms]


def gradient_sums(function: Elementwise, side: str, rows: Rows, grad: Tensor) -> list[Tensor]:
    """grad [N, M] * df by mean and logvar, without the linear terms, summed over the other side: [N, D] or [M, D]."""
    gradient, dim = (function.gradient_x, 1) if side == "x" else (function.gradient_y, 0)
    return [(grad[:, :, None] * part).sum(dim) for part in gradient(*rows.pairs())]


def scores(score: Score, rows: Rows, out: Tensor | None) -> Tensor:
    """`Sums.scores` in torch."""
    function = partial(value_sums, function_of(score))
    program = _program(("value", score.name), function, rows)
    if program is not None:
        values: Tensor = program(*_flat(rows))[0]
        return values if out is None else out.copy_(values)
    out = rows.x[0].new_empty(rows.shape[:2]) if out is None else out
    for i, j in _pieces(rows):
        out[i, j] = function(rows.piece(i, j))[0]
    return out


def gradients(score: Score, rows: Rows, grad: Tensor, side: str) -> tuple[Tensor, Tensor]:
    """`Sums.gradients` in torch."""
    grad = grad.contiguous()
    function = partial(gradient_sums, function_of(score), side)
    program = _program((side, score.name), function, rows, grad)
    if program is not None:
        d_mean, d_logvar = program(*_flat(rows), grad)
        return d_mean, d_logvar
    totals = tuple(torch.zeros_like((rows.x if side == "x" else rows.y)[0]) for _ in range(2))
    for i, j in _pieces(rows):
        for total, part in zip(totals, function(rows.piece(i, j), grad[i, j]), strict=True):
            total[i if side == "x" else j] += part
    return totals[0], totals[1]


SUMS = Sums(scores, gradients)


def _pieces(rows: Rows) -> list[tuple[slice, slice]]:
    n, m, width = rows.shape
    return list(blocks(n, m, block_shape(n, m, max(EAGER_CELLS // max(width, 1), 1), even=False)))


def _flat(rows: Rows) -> tuple[Tensor, ...]:
    return *rows.x, *rows.y, rows.term_x, rows.term_y


def _program(key: tuple[str, str], function: Summed, rows: Rows, *grad: Tensor) -> Summed | None:
    n, m, width = rows.shape
    like = rows.x[0]
    if like.device.type != "cpu" or n * m * width < COMPILE_CELLS:
        return None

    def example(h: int, w: int, d: int) -> list[Tensor]:
        # every tensor its own: tracing would take two equal ones for one
        random = torch.Generator().manual_seed(0)
        shapes = [(h, d)] * 3 + [(w, d)] * 3 + [(2, h), (2, w), (h, w)][: 2 + len(grad)]
        return [torch.rand(shape, generator=random, dtype=like.dtype, device="cpu") for shape in shapes]

    def flat(*t: Tensor) -> Any:
        return function(Rows(t[:3], t[3:6], *t[6:8]), *t[8:])

    return compiled.program(("elementwise", *key, like.dtype), flat, example, shapes=SHAPES)
