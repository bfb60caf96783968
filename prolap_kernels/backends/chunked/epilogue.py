"""A block of scores becomes losses, sums and gradients by the logits, in one sweep: eager or compiled."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...objectives import NAMED, Objective, Side
from ...pairs import SATURATED, counted_pairs, positive_pairs


class Form(NamedTuple):
    """What a sweep does; each value compiles to a program of its own.

    wide: take sums in float64, since a compiled loop adds one by one, where eager torch adds in pairs.
    """

    objective_name: str
    negatives_only: bool
    ids: bool
    grads: bool
    stats: bool
    wide: bool = False

    @property
    def objective(self) -> Objective:
        return NAMED[self.objective_name]


class Block(NamedTuple):
    """product = phi_x phi_y^T [h, w], then the values of its rows and columns; None stands for zeros, in `weight` for ones.

    scale and bias are [1]: the tracer takes 0-d float64 tensors for Python numbers, and fails on them.
    """

    product: Tensor
    alpha: Tensor | None
    beta: Tensor | None
    weight: Tensor | None
    scale: Tensor
    bias: Tensor
    x_id: Tensor
    y_id: Tensor


class Swept(NamedTuple):
    """grad [h, w] = weight * dL/dlogit; along the rows [h]: loss, sum of grad, sum of grad * score; the statistics [4, h].
    Size 0 where the form or the objective has none."""

    grad: Tensor
    loss: Tensor
    row: Tensor
    dot: Tensor
    stats: Tensor


def _cells(form: Form, block: Block) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """score, logit, positive, counted (None: every pair counts)."""
    score = block.product
    if block.alpha is not None:
        score = score + block.alpha[:, None]
    if block.beta is not None:
        score = score + block.beta[None, :]
    positive = positive_pairs(block.x_id, block.y_id)
    counted = counted_pairs(block.x_id, block.y_id) if form.ids else None
    if form.negatives_only:
        counted = ~positive if counted is None else counted & ~positive
    return score, score * block.scale + block.bias, positive, counted


def measure(form: Form, block: Block, sides: Side = ()) -> Side:
    """The block's share of the normaliser's totals, of the rows, then of the columns."""
    normaliser = form.objective.normaliser
    assert normaliser is not None
    _, logit, positive, counted = _cells(form, block)
    dtype = torch.float64 if form.wide else logit.dtype
    return *normaliser.measure(logit, positive, counted, 1, dtype), *normaliser.measure(
        logit, positive, counted, 0, dtype
    )


def sweep(form: Form, block: Block, sides: Side = ()) -> Swept:
    """All that a block gives but products. sides: what the normaliser's `finish` returned of the rows, then of the columns."""
    none = block.product.new_empty(0)
    score, logit, positive, counted = _cells(form, block)
    half = len(sides) // 2
    broadcast = tuple(t[:, None] for t in sides[:half]), tuple(t[None, :] for t in sides[half:])
    stats = none
    if form.stats:
        stats = _statistics(logit, positive, counted, form.objective.pair_gradient(logit, positive, *broadcast))
    loss, grad = form.objective.pair(logit, positive, *broadcast)
    if loss is not None and counted is not None:
        loss = torch.where(counted, loss, 0.0)
    loss = none if loss is None else _row_sum(form, loss)
    if not form.grads:
        return Swept(none, loss, none, none, stats)
    if counted is not None:  # `where`, not a product: 0 times the infinite score of a pair that does not count is NaN
        grad, score = torch.where(counted, grad, 0.0), torch.where(counted, score, 0.0)
    if block.weight is not None:
        grad = grad * block.weight[:, None]
    return Swept(grad, loss, _row_sum(form, grad), _row_sum(form, grad * score), stats)


def _row_sum(form: Form, value: Tensor) -> Tensor:
    return value.sum(1, dtype=torch.float64).to(value.dtype) if form.wide else value.sum(1)


def _statistics(logit: Tensor, positive: Tensor, counted: Tensor | None, gradient: Tensor) -> Tensor:
    saturated = gradient.abs() < SATURATED
    sides = [positive, ~positive] if counted is None else [positive & counted, counted & ~positive]
    logits = [torch.where(side, logit, 0.0).sum(1) for side in sides]
    return torch.stack([*logits, *((side & saturated).to(logit.dtype).sum(1) for side in sides)])


def example(form: Form, dtype: torch.dtype, measured: bool, h: int, w: int) -> list[Tensor]:
    """Arguments to trace and check `measure` on, or `sweep` if measured."""
    alpha, beta = (torch.linspace(-1, 1, k, dtype=dtype, device="cpu") for k in (h, w))
    x_id, y_id = (torch.arange(k, device="cpu") % 7 - 1 for k in (h, w))
    # every tensor its own: tracing would take two equal ones for one
    scale, bias = (torch.tensor([value], dtype=dtype, device="cpu") for value in (3.0, -1.0))
    block = Block(alpha[:, None] * beta, alpha, beta, 2 - alpha, scale, bias, x_id, y_id)
    normaliser = form.objective.normaliser
    if normaliser is None or not measured:
        return [t for t in block if t is not None]
    totals = measure(form, block)
    half = len(totals) // 2
    _, row, col = normaliser.finish(totals[:half], totals[half:])
    return [*(t for t in block if t is not None), *row, *col]
