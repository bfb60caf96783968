"""The two engines on one block of pairs: what makes its scores, and what gradients by the scores become.

A lift's block is a matrix product, a tile's a sum over dimensions. All else, the objective and the walk over the blocks, is the
same for both.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ...gaussian import Gaussian, widen
from ..problem import PairOptions, PairProblem, PairSums
from . import elementwise

Part = tuple[slice, slice]


class Engine(Protocol):
    """beside: numbers that a block takes beside each of its rows and columns; offsets: [N], [M] to be added to the scores, or
    size 0."""

    beside: int
    offsets: tuple[Tensor, Tensor]

    def scores(self, rows: slice, cols: slice, out: Tensor | None) -> Tensor:
        """s_ij without the offsets, [h, w], into `out` if given."""

    def add(self, sums: PairSums, part: Part, grad: Tensor) -> None:
        """Adds what grad [h, w] = dL/ds of a block gives to the gradients that `sums` has room for."""


class LiftEngine:
    """s_ij = phi_x_i . phi_y_j."""

    def __init__(self, problem: PairProblem, options: PairOptions) -> None:
        self.phi = problem.phi_x, problem.phi_y
        self.offsets = problem.alpha, problem.beta
        self.ignored = _ignored(problem, options)
        exact = problem.scale.dtype
        copied = any(phi.dtype != exact for phi in self.phi) or self.ignored != (None, None)
        self.beside = problem.phi_x.shape[1] if copied else 0

    def scores(self, rows: slice, cols: slice, out: Tensor | None) -> Tensor:
        x, y = widen(self.phi[0][rows]), widen(self.phi[1][cols])
        return x @ y.T if out is None else torch.mm(x, y.T, out=out)

    def add(self, sums: PairSums, part: Part, grad: Tensor) -> None:
        rows, cols = part
        if sums.dphi_x.numel():
            sums.dphi_x[rows].addmm_(grad, self._clean(1, cols))
        if sums.dphi_y.numel():
            sums.dphi_y[cols].addmm_(grad.T, self._clean(0, rows))

    def _clean(self, side: int, part: slice) -> Tensor:
        return _blank(widen(self.phi[side][part]), self.ignored[side], part)


class TileEngine:
    """s_ij = sum_d f(x_id, y_jd), by name."""

    def __init__(self, problem: PairProblem, options: PairOptions) -> None:
        self.sides = Gaussian(problem.phi_x, problem.alpha), Gaussian(problem.phi_y, problem.beta)
        self.score, self.backend = options.score, options.backend
        self.beside = elementwise.PARTS * problem.phi_x.shape[1]
        self.offsets = (problem.scale.new_empty(0),) * 2
        self.ignored = _ignored(problem, options)

    def scores(self, rows: slice, cols: slice, out: Tensor | None) -> Tensor:
        return elementwise.scores(self.score, self._clean(0, rows), self._clean(1, cols), self.backend, out)

    def add(self, sums: PairSums, part: Part, grad: Tensor) -> None:
        x, y = (self._clean(side, part[side]) for side in range(2))
        sides = (("x", sums.dphi_x, sums.dlogvar_x), ("y", sums.dphi_y, sums.dlogvar_y))
        for (side, *totals), where in zip(sides, part, strict=True):
            if totals[0].numel():
                for total, share in zip(
                    totals, elementwise.slopes(self.score, x, y, grad, side, self.backend), strict=True
                ):
                    total[where] += share

    def _clean(self, side: int, part: slice) -> Gaussian:
        mean, logvar = (_blank(t[part], self.ignored[side], part) for t in self.sides[side])
        return Gaussian(mean, logvar)


def engine_of(problem: PairProblem, options: PairOptions) -> Engine:
    return TileEngine(problem, options) if options.score else LiftEngine(problem, options)


def _ignored(problem: PairProblem, options: PairOptions) -> tuple[Tensor | None, Tensor | None]:
    """Which rows of either side are left out, None where none is (on a GPU always given: to look would stop it)."""
    if not options.ids_given:
        return None, None
    masks = [ids < 0 for ids in (problem.x_id, problem.y_id)]
    x, y = (m if m.device.type != "cpu" or bool(m.any()) else None for m in masks)
    return x, y


def _blank(value: Tensor, ignored: Tensor | None, part: slice) -> Tensor:
    """Ignored rows as zeros: 0 * NaN is NaN, and what padding holds must not reach any gradient."""
    return value if ignored is None else value.masked_fill(ignored[part, None], 0)
