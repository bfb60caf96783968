"""Blocks of scores that are sums over dimensions, and what gradients by them become: Triton, compiled, or eager in small pieces.

Only O((N + M) D) is ever stored beside a block; N M D elements exist in registers alone (eagerly, a bounded piece at a time).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...gaussian import Gaussian, widen
from ...scores import SCORES
from ...scores.base import Parts, Tile
from . import compiled

COMPILE_CELLS = 1 << 24
"""Elements N M D from which a program is compiled: below, eager pieces take up to a second or so, a compilation several."""
EAGER_CELLS = 1 << 20
"""Elements of an eager piece: some ten temporaries of 4 MB."""
PARTS = 8
"""Numbers that a row takes per dimension while its parts are made: three parts and float64 on the way."""
MATRIX_CELLS = {"cpu": 1 << 23, "cuda": 1 << 26}
"""Numbers that the parts of a block of a whole matrix may take: 32 MB in float32; 256 MB on a GPU, whose kernels want rows."""
SHAPES = ((29, 61, 131), (7, 5, 19))
"""Rows, columns and dimensions that programs are traced on and checked on besides."""
Summed = Callable[..., Any]


class Rows(NamedTuple):
    """Both sides' parts, three each (a side with fewer repeats its first), and their terms that are linear in logvar, [2, N] and
    [2, M]: in two numbers, since sums of D log-variances cancel against each other to the last digits."""

    x: Parts
    y: Parts
    term_x: Tensor
    term_y: Tensor

    def pairs(self) -> Iterator[Tensor]:
        """Ready to broadcast against each other, [N, 1, D] and [1, M, D]."""
        yield from (t[:, None] for t in self.x)
        yield from (t[None] for t in self.y)

    def piece(self, rows: slice, cols: slice) -> Rows:
        parts = tuple(t[rows] for t in self.x), tuple(t[cols] for t in self.y)
        return Rows(*parts, self.term_x[:, rows], self.term_y[:, cols])

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.x[0]), len(self.y[0]), self.x[0].shape[1]


def tile_of(score: str) -> Tile:
    tile = SCORES[score].tile
    assert tile is not None
    return tile


def scores(score: str, x: Gaussian, y: Gaussian, backend: str, out: Tensor | None = None) -> Tensor:
    """s_ij [N, M] in float32 (float64 for float64 means), into `out` if given."""
    rows = _rows(score, x, y)
    if backend == "triton":
        from ..triton.elementwise import scores as fused_scores

        made: Tensor = fused_scores(score, rows, out)
        return made
    return _value(score, rows, out)


def slopes(score: str, x: Gaussian, y: Gaussian, grad: Tensor, side: str, backend: str) -> tuple[Tensor, Tensor]:
    """sum over the other side of grad_ij ds_ij/d(mean, logvar) of `side`, "x" or "y": [N, D] or [M, D] each."""
    tile, rows = tile_of(score), _rows(score, x, y)
    if backend == "triton":
        from ..triton.elementwise import slopes as fused_slopes

        d_mean, d_logvar = fused_slopes(score, rows, grad, side)
    else:
        d_mean, d_logvar = _slope(score, rows, grad.contiguous(), side)
    linear, dim = (tile.logvar_x, 1) if side == "x" else (tile.logvar_y, 0)
    if linear:
        d_logvar += linear * grad.sum(dim)[:, None]
    return d_mean if tile.mean_scale == 1.0 else d_mean.mul_(tile.mean_scale), d_logvar


def matrix(score: str, x: Gaussian, y: Gaussian, backend: str) -> Tensor:
    """`scores` of all pairs, in blocks whose parts are bounded."""
    wide = widen(x.mean)
    out = wide.new_empty(len(x.mean), len(y.mean))
    for i, j in _blocks(x, y):
        scores(score, x.rows(i), y.rows(j), backend, out[i, j])
    return out


def matrix_slopes(
    score: str, x: Gaussian, y: Gaussian, grad: Tensor, need: tuple[bool, bool], backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`slopes` of all pairs by (mean, logvar) of x and of y, size 0 where not needed."""
    like, grad = widen(x.mean), grad.to(widen(x.mean).dtype)
    totals = [like.new_zeros(t.shape if wanted else 0) for z, wanted in zip((x, y), need, strict=True) for t in z]
    for part in _blocks(x, y):
        for k, side in enumerate("xy"):
            if need[k]:
                shares = slopes(score, x.rows(part[0]), y.rows(part[1]), grad[part], side, backend)
                for total, share in zip(totals[2 * k : 2 * k + 2], shares, strict=True):
                    total[part[k]] += share
    return totals[0], totals[1], totals[2], totals[3]


def _blocks(x: Gaussian, y: Gaussian) -> Iterator[tuple[slice, slice]]:
    n, m, width = len(x.mean), len(y.mean), x.mean.shape[1]
    cells = MATRIX_CELLS.get(x.mean.device.type, MATRIX_CELLS["cuda"])
    side = max(cells // (2 * PARTS * max(width, 1)), 1)
    for i in range(0, n, side):
        for j in range(0, m, side):
            yield slice(i, min(i + side, n)), slice(j, min(j + side, m))


def _rows(score: str, x: Gaussian, y: Gaussian) -> Rows:
    tile = tile_of(score)

    def padded(z: Gaussian, make: Callable[[Tensor, Tensor], Parts]) -> Parts:
        mean, logvar = widen(z.mean), widen(z.logvar).to(widen(z.mean).dtype)
        made = make(mean if tile.mean_scale == 1.0 else mean * tile.mean_scale, logvar)
        parts = tuple(t.contiguous() for t in made)
        return parts + parts[:1] * (3 - len(parts))

    parts = padded(x, tile.parts_x), padded(y, tile.parts_y)
    like = parts[0][0]
    return Rows(*parts, _term(x.logvar, tile.logvar_x, like), _term(y.logvar, tile.logvar_y, like))


def _term(logvar: Tensor, factor: float, like: Tensor) -> Tensor:
    if not factor:
        return like.new_zeros(2, len(logvar))
    exact = factor * logvar.double().sum(1)
    high = exact.to(like.dtype)
    return torch.stack([high, (exact - high.double()).to(like.dtype)])


def value_sums(tile: Tile, rows: Rows) -> list[Tensor]:
    """s_ij [N, M]."""
    (a, a_low), (b, b_low) = rows.term_x, rows.term_y
    terms = (a[:, None] + b[None]) + (a_low[:, None] + b_low[None])
    return [tile.value(*rows.pairs()).sum(-1) + terms]


def slope_sums(tile: Tile, side: str, rows: Rows, grad: Tensor) -> list[Tensor]:
    """sum over the other side of grad [N, M] * df by mean and logvar, but for the linear terms: [N, D] or [M, D]."""
    slope, dim = (tile.slope_x, 1) if side == "x" else (tile.slope_y, 0)
    return [(grad[:, :, None] * part).sum(dim) for part in slope(*rows.pairs())]


def _value(score: str, rows: Rows, out: Tensor | None) -> Tensor:
    function = partial(value_sums, tile_of(score))
    program = _program(("value", score), function, rows)
    if program is not None:
        made = program(*_flat(rows))[0]
        return made if out is None else out.copy_(made)
    made = rows.x[0].new_empty(rows.shape[:2]) if out is None else out
    for i, j in _pieces(rows):
        made[i, j] = function(rows.piece(i, j))[0]
    return made


def _slope(score: str, rows: Rows, grad: Tensor, side: str) -> tuple[Tensor, Tensor]:
    function = partial(slope_sums, tile_of(score), side)
    program = _program((side, score), function, rows, grad)
    if program is not None:
        d_mean, d_logvar = program(*_flat(rows), grad)
        return d_mean, d_logvar
    made = tuple(torch.zeros_like((rows.x if side == "x" else rows.y)[0]) for _ in range(2))
    for i, j in _pieces(rows):
        for total, part in zip(made, function(rows.piece(i, j), grad[i, j]), strict=True):
            total[i if side == "x" else j] += part
    return made[0], made[1]


def _pieces(rows: Rows) -> Iterator[tuple[slice, slice]]:
    n, m, width = rows.shape
    area = max(EAGER_CELLS // max(width, 1), 1)
    breadth = min(m, max(int(area**0.5), area // max(n, 1))) or 1
    height = max(area // breadth, 1)
    for i in range(0, n, height):
        for j in range(0, m, breadth):
            yield slice(i, i + height), slice(j, j + breadth)


def _flat(rows: Rows) -> tuple[Tensor, ...]:
    return *rows.x, *rows.y, rows.term_x, rows.term_y


def _program(key: tuple[str, str], function: Summed, rows: Rows, *grad: Tensor) -> Summed | None:
    n, m, width = rows.shape
    like = rows.x[0]
    if like.device.type != "cpu" or n * m * width < COMPILE_CELLS:
        return None

    def example(h: int, w: int, d: int) -> list[Tensor]:
        # no tensor twice: tracing would take the two for one
        random = torch.Generator().manual_seed(0)
        shapes = [(h, d)] * 3 + [(w, d)] * 3 + [(2, h), (2, w), (h, w)][: 2 + len(grad)]
        return [torch.rand(shape, generator=random, dtype=like.dtype, device="cpu") for shape in shapes]

    def flat(*t: Tensor) -> Any:
        return function(Rows(t[:3], t[3:6], *t[6:8]), *t[8:])

    return compiled.program(("tile", *key, like.dtype), flat, example, shapes=SHAPES)


def half_trace(logvar: Tensor, need_grad: bool) -> tuple[Tensor, Tensor]:
    """-1/2 sum_d exp(logvar), [N], and the gradient of its sum, [N, D] or size 0."""
    half = -0.5 * widen(logvar).exp()
    return half.sum(-1), half if need_grad else half.new_zeros(0)
