"""What an objective is: a dense formula, and the same for the cells of a block with its gradient by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..checks import register

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
    dense_gradient(logit, positive, counted) -> [N, M], each pair's own derivative by its logit, for statistics (`PairStats`).
    pair(logit, positive, row, col) -> (loss or None, dL/dlogit) of a block's cells as if all counted: pure, pointwise, made of
    plain torch operations, so that it compiles into one sweep; loss None where `normaliser` has it.
    pair_gradient(logit, positive, row, col) -> `dense_gradient` of a block's cells.
    averages: the value is a mean already, [1], and takes neither another reduction nor row weights.
    launchers: fused kernels for bilinear scores by the name of their backend, registered by the backend.
    """

    name: str
    dense: Callable[[Tensor, Tensor, Tensor], Tensor]
    dense_gradient: Callable[[Tensor, Tensor, Tensor], Tensor]
    pair: Callable[[Tensor, Tensor, Any, Any], tuple[Tensor | None, Tensor]]
    pair_gradient: Callable[[Tensor, Tensor, Any, Any], Tensor]
    normaliser: Normaliser | None = None
    averages: bool = False
    launchers: dict[str, Callable[..., None]] = field(default_factory=dict, compare=False, repr=False)


OBJECTIVES: dict[str, Objective] = {}
"""What `objective=` may name."""
NAMED: dict[str, Objective] = {}
"""Where raw ops look a name up: the objectives above, and objects handed in, each under a name of its own."""


def register_objective(objective: Objective) -> Objective:
    """Let `objective=` name this objective from now on; returns it.

    Errors: TypeError for anything but an Objective, ValueError if another one has its name.
    """
    return register("objective", objective, Objective, OBJECTIVES, NAMED)


def pointwise_objective(name: str, loss: Callable[[Tensor, Tensor], Tensor]) -> Objective:
    """An objective that adds up loss(logit [N, M], positive [N, M] bool) -> [N, M] over the counted pairs of each row.

    All that an objective of your own needs where every pair has a loss by itself; the gradient is derived from the formula.
    """

    def both(logit: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
        value, pull, *_ = torch.func.vjp(lambda t: loss(t, positive), logit)
        return value, pull(torch.ones_like(value))[0]

    def dense(logit: Tensor, positive: Tensor, counted: Tensor) -> Tensor:
        value = loss(logit, positive)
        return torch.where(counted, value, value.new_zeros(())).sum(1)

    return Objective(
        name,
        dense,
        lambda logit, positive, counted: both(logit, positive)[1],
        lambda logit, positive, row, col: both(logit, positive),
        lambda logit, positive, row, col: both(logit, positive)[1],
    )
