"""What an objective is: a dense formula, and the same for the cells of a block with its gradient by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Side = tuple[Tensor, ...]
"""What a normaliser knows of each row of a block, broadcast as [h, 1], or of each column, as [1, w]."""


@dataclass(frozen=True)
class Normaliser:
    """What needs the whole matrix before the first gradient: totals along rows and columns, gathered block by block.

    empty(k, like) -> totals of k rows that have seen nothing; measure(logit, positive, counted, dim) -> totals of a block along
    `dim`; merge(a, b) -> totals of both; finish(rows, cols) -> (loss [1], what `pair` is told of rows, of columns).
    """

    empty: Callable[[int, Tensor], Side]
    measure: Callable[[Tensor, Tensor, Tensor | None, int], Side]
    merge: Callable[[Side, Side], Side]
    finish: Callable[[Side, Side], tuple[Tensor, Side, Side]]


@dataclass(frozen=True)
class Objective:
    """What a matrix of logits becomes.

    dense(logit, positive, counted) -> [N] (per row of x) or, where the value is no sum over rows, [1]: differentiable truth.
    slope(logit, positive, counted) -> [N, M], each pair's own derivative by its logit, for statistics (`PairStats`).
    pair(logit, positive, row, col) -> (loss or None, dL/dlogit) of a block's cells as if all counted: pure, pointwise, made of
    plain torch operations, so that it compiles into one sweep; loss None where `normaliser` has it.
    pair_slope(logit, positive, row, col) -> `slope` of a block's cells.
    averages: the value is a mean already, [1], and takes neither another reduction nor row weights.
    """

    name: str
    dense: Callable[[Tensor, Tensor, Tensor], Tensor]
    slope: Callable[[Tensor, Tensor, Tensor], Tensor]
    pair: Callable[[Tensor, Tensor, Any, Any], tuple[Tensor | None, Tensor]]
    pair_slope: Callable[[Tensor, Tensor, Any, Any], Tensor]
    normaliser: Normaliser | None = None
    averages: bool = False
