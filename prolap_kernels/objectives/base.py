"""What an objective is: a dense formula, and the same cut into blocks with its gradient by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor


class Block(NamedTuple):
    """One rectangle of the pair matrix. `counted` is None where every pair counts."""

    rows: slice
    cols: slice
    logit: Tensor
    positive: Tensor
    counted: Tensor | None


Walk = Callable[[], Iterator[Block]]
"""Visits every block of the pair matrix, each time in the same order."""


@dataclass(frozen=True)
class Objective:
    """What a matrix of logits becomes.

    dense(logit, positive, counted) -> [N] (per row of x) or, where the value is no sum over rows, [1]: differentiable truth.
    slope(logit, positive, counted) -> [N, M], each pair's own derivative by its logit, for statistics (`PairStats`).
    prepare(walk, n, m) -> (loss, statistics): what needs the whole matrix before the first gradient; loss None if `tile` has it.
    tile(block, statistics) -> (loss per row or None, dL/dlogit): a block's share.
    averages: the value is a mean already, [1], and takes neither another reduction nor row weights.
    """

    name: str
    dense: Callable[[Tensor, Tensor, Tensor], Tensor]
    slope: Callable[[Tensor, Tensor, Tensor], Tensor]
    prepare: Callable[[Walk, int, int], tuple[Tensor | None, Any]]
    tile: Callable[[Block, Any], tuple[Tensor | None, Tensor]]
    averages: bool = False
