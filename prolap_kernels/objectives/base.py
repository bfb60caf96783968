"""Objectives: a dense formula, and the same for the cells of a block with its gradient; and their registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..checks import as_callable, check_name, register

Side = tuple[Tensor, ...]
"""A normaliser's numbers for each row of a block, broadcast as [h, 1], or for each column, as [1, w]."""


@dataclass(frozen=True)
class Normaliser:
    """Totals along rows and columns that gradients need first, gathered block by block.

    empty(k, like) -> empty totals of k rows; measure(logit, positive, counted, dim, dtype) -> totals of a block along `dim`,
    summed in dtype; merge(a, b) -> totals of both; finish(rows, cols) -> (loss [1], the `row` and `col` that `pair` takes).
    """

    empty: Callable[[int, Tensor], Side]
    measure: Callable[[Tensor, Tensor, Tensor | None, int, torch.dtype], Side]
    merge: Callable[[Side, Side], Side]
    finish: Callable[[Side, Side], tuple[Tensor, Side, Side]]


@dataclass(frozen=True)
class Objective:
    """Makes a loss of a matrix of logits.

    dense(logit, positive, counted) -> [N] (per row of x), or [1] if it averages: the truth, differentiable.
    dense_gradient(logit, positive, counted) -> [N, M], the derivative of each pair's own loss by its logit, for `PairStats`.
    pair(logit, positive, row, col) -> (loss or None, dL/dlogit) of a block's cells as if all counted. Pure and pointwise torch
    operations, so that it compiles into one sweep; None where `normaliser` returns the loss.
    pair_gradient(logit, positive, row, col) -> `dense_gradient` of a block's cells.
    averages: whether the value is a mean already, [1], which takes no other reduction and no row weights.
    launchers: fused kernels for bilinear scores by backend; each backend registers its own.
    """

    name: str
    dense: Callable[[Tensor, Tensor, Tensor], Tensor]
    dense_gradient: Callable[[Tensor, Tensor, Tensor], Tensor]
    pair: Callable[[Tensor, Tensor, Any, Any], tuple[Tensor | None, Tensor]]
    pair_gradient: Callable[[Tensor, Tensor, Any, Any], Tensor]
    normaliser: Normaliser | None = None
    averages: bool = False
    launchers: dict[str, Callable[..., None]] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_name("objective.name", self.name)
        for part in ("dense", "dense_gradient", "pair", "pair_gradient"):
            as_callable(f"objective.{part}", getattr(self, part))


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

    Such an objective of your own needs no more than this formula; gradients are derived from it.
    """

    check_name("name", name)
    as_callable("loss", loss)

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
