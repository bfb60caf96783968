"""Losses and gradients in float64 at any size, and the sums of absolute terms that bound the errors of elementwise scores.

Elementwise scores are computed strip by strip. Of a large batch on a CPU not all rows: entries of a matrix on some rows of x,
gradients on some rows of either side, each against all of the other side. A loss is always that of all pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from prolap_kernels import Gaussian
from prolap_kernels.reference import score_matrix
from prolap_kernels.scores import CONVENTIONS, SCORES

from .cases import Batch, Loss, ours, train
from .peers import dense_loss, eager

LITERAL_CELLS, DENSE_CELLS = 1 << 25, 1 << 26
"""The reference up to so many N x M x D, dense eager torch up to so many N x M (tests hold the two together), beyond it the
chunked backend; of elementwise scores the literal formula in strips, of large ones on some rows."""
CELLS = {"cpu": 1 << 19, "cuda": 1 << 26}
"""N x M x D of a strip."""
WHOLE = {"cpu": 1 << 27}
"""N x M x D up to which every row is checked; on a device without a line here all are, at any size."""
SAMPLE = 1 << 26
"""N x M x D of the sampled rows of both sides, where not all are checked."""
Results = dict[str, Tensor | None]
"""The loss ("loss", or a matrix of scores) and the gradient of every leaf, None where it has none."""
SIDES = ("x.mean", "x.logvar", "y.mean", "y.logvar")


def results(loss: Loss, batch: Batch) -> Results:
    """The loss and the gradient of every leaf."""
    batch.clear()
    values: Results = {"loss": train(loss, batch)}
    values |= {name: leaf.grad for name, leaf in batch.leaves.items()}
    batch.clear()
    return values


def truth(batch: Batch, factor: float = 1.0) -> Results:
    """`results` in float64, of the loss times `factor`."""
    n, m, _ = batch.shape
    if batch.case.is_elementwise and batch.elements() > LITERAL_CELLS:
        return strip_results(batch.double(), lambda b, score: dense_loss(b, score) * factor)
    literal = batch.elements() <= LITERAL_CELLS
    loss = ours("reference") if literal else eager if n * m <= DENSE_CELLS else ours("chunked")
    return results(lambda b: loss(b) * factor, batch.double())


class Strip(NamedTuple):
    """Rows of x and rows of y; sides: of which these are all the pairs that count."""

    rows: Tensor
    cols: Tensor
    sides: str


def _inclusion(x: Gaussian, y: Gaussian, convention: str) -> list[Tensor]:
    kappa, rho = CONVENTIONS[convention]
    wide_y, wide_x = x.var + 2 * y.var, 2 * x.var + y.var
    gap = (x.mean - y.mean).square() * (y.var - x.var) / (wide_x * wide_y)
    return [kappa * (y.logvar - x.logvar), 0.5 * (wide_x / wide_y).log(), rho * gap]


def _containment(x: Gaussian, y: Gaussian) -> list[Tensor]:
    wide = x.var + 2 * y.var
    return [0.5 * x.logvar, 0.5 * wide.log(), (x.mean - y.mean).square() / wide]


def _elk(x: Gaussian, y: Gaussian) -> list[Tensor]:
    both = x.var + y.var
    constant = torch.full_like(both, 0.5 * math.log(2 * math.pi))
    return [0.5 * (x.mean - y.mean).square() / both, 0.5 * both.log(), constant]


TERMS: dict[str, Callable[[Gaussian, Gaussian], list[Tensor]]] = {
    "inclusion": lambda x, y: _inclusion(x, y, "exact"),
    "inclusion/prolip": lambda x, y: _inclusion(x, y, "prolip"),
    "containment": _containment,
    "elk": _elk,
}
"""Terms of f that cancel each other; of a score without a line here f itself counts, being a sum of terms of one sign."""


def sampled(batch: Batch) -> tuple[Tensor, Tensor]:
    """Indices of the rows of x and of y that are checked, ascending: all, or as many random ones of each as SAMPLE allows."""
    n, m, d = batch.shape
    device = batch.x.mean.device
    most = max(n, m)
    if n * m * d > WHOLE.get(device.type, math.inf):
        most = max(SAMPLE // ((n + m) * d), 1)
    random = torch.Generator().manual_seed(0)
    rows, cols = (torch.randperm(size, generator=random)[:most].sort().values.to(device) for size in (n, m))
    return rows, cols


def pick(values: Results, batch: Batch) -> Results:
    """Of the results of a whole batch those of the rows that `sampled` names."""
    rows, cols = sampled(batch)

    def part(name: str, value: Tensor | None) -> Tensor | None:
        if value is None or value.dim() == 0:
            return value
        return value[cols if name.startswith("y.") else rows]

    return {name: part(name, value) for name, value in values.items()}


def strips(batch: Batch) -> Iterator[Strip]:
    """All pairs of the sampled rows, few enough at a time for an N x M x D of them; every pair once where all are sampled."""
    rows, cols = sampled(batch)
    all_rows, all_cols = (torch.arange(size, device=rows.device) for size in batch.shape[:2])
    if len(rows) == len(all_rows) and len(cols) == len(all_cols):
        yield from _cut(batch, Strip(rows, cols, "xy"))
    else:
        yield from _cut(batch, Strip(rows, all_cols, "x"))
        yield from _cut(batch, Strip(all_rows, cols, "y"))


def _cut(batch: Batch, whole: Strip) -> Iterator[Strip]:
    height = max(1, CELLS[batch.x.mean.device.type] // max(1, len(whole.cols) * batch.shape[2]))
    return (whole._replace(rows=rows) for rows in whole.rows.split(height) if len(rows))


@torch.no_grad()
def _matrix(batch: Batch, rows: Tensor) -> Tensor:
    """[rows, M]"""
    cols = torch.arange(batch.shape[1], device=rows.device)
    score, parts = SCORES[batch.case.score], [batch.x.mean.new_empty(0, len(cols))]
    parts += [score_matrix(score, batch.x.rows(strip.rows), batch.y) for strip in _cut(batch, Strip(rows, cols, "x"))]
    return torch.cat(parts)


def strip_results(batch: Batch, loss: Callable[[Batch, Tensor], Tensor]) -> Results:
    """Value and gradient of every leaf on the sampled rows, by the literal formula: first the matrix, then its gradients.
    loss(batch, matrix)."""
    batch.clear()
    if batch.case.is_matrix:
        assert batch.weights is not None
        values: Results = {"loss": _matrix(batch, sampled(batch)[0])}
        upstream: Tensor | None = None if batch.case.forward else batch.weights.dense
    else:
        matrix = _matrix(batch, torch.arange(batch.shape[0], device=batch.x.mean.device))
        value = loss(batch, matrix.requires_grad_())
        value.backward()
        values, upstream = {"loss": value.detach()}, matrix.grad
    values |= {name: leaf.grad for name, leaf in batch.leaves.items()}
    batch.clear()
    if upstream is None:
        return values
    weight = upstream

    def local(leaves: list[Tensor], strip: Strip) -> list[Tensor | None]:
        matrix = score_matrix(SCORES[batch.case.score], Gaussian(*leaves[:2]), Gaussian(*leaves[2:]))
        return _gradients(matrix, leaves, weight[strip.rows][:, strip.cols])

    return values | _gathered(batch, local)


def _gradients(value: Tensor, leaves: list[Tensor], weight: Tensor | None = None) -> list[Tensor | None]:
    """By each leaf, None by those that do not learn."""
    learning = [leaf for leaf in leaves if leaf.requires_grad]
    gradients = iter(torch.autograd.grad(value, learning, weight, allow_unused=True))
    return [next(gradients) if leaf.requires_grad else None for leaf in leaves]


def _gathered(batch: Batch, local: Callable[[list[Tensor], Strip], list[Tensor | None]]) -> dict[str, Tensor]:
    """For means and log-variances, on the sampled rows: the sums over strips of what `local` gives for the rows of a strip.
    Leaves of a strip require gradients only on the sides that the strip counts for."""
    totals: Results = {}
    for strip in strips(batch):
        sides = zip("xxyy", [*batch.x, *batch.y], (strip.rows,) * 2 + (strip.cols,) * 2, strict=True)
        leaves = [t.detach()[index].requires_grad_(side in strip.sides) for side, t, index in sides]
        for name, value in zip(SIDES, local(leaves, strip), strict=True):
            if value is not None and name in batch.leaves:
                total = totals.setdefault(name, value.new_zeros(batch.shape["xy".index(name[0])], batch.shape[2]))
                assert total is not None
                total[strip.rows if name[0] == "x" else strip.cols] += value
    return {name: value for name, value in pick(totals, batch).items() if value is not None}


def sizes(batch: Batch) -> dict[str, Tensor]:
    """Of a matrix in float64, on the sampled rows: "loss", sum_d |terms of f|, [N, M]; of every leaf that learns
    sum_j |w_ij df_ij|, [N, D]."""
    score, (n, m, d) = SCORES[batch.case.score], batch.shape
    terms = TERMS.get(score.name, lambda x, y: [score.formula(x, y)])
    loss = batch.x.mean.new_zeros(n, m)

    def local(leaves: list[Tensor], strip: Strip) -> list[Tensor | None]:
        wide = [t[:, None] if k < 2 else t[None] for k, t in enumerate(leaves)]
        if "x" in strip.sides:
            parts = terms(*(Gaussian(*(t.detach() for t in pair)) for pair in (wide[:2], wide[2:])))
            loss[strip.rows] = sum(part.abs().expand(len(strip.rows), m, d).sum(-1) for part in parts)
        if batch.case.forward:
            return [None] * len(SIDES)
        assert batch.weights is not None
        weight = batch.weights.dense[strip.rows][:, strip.cols].abs()
        shape = (len(strip.rows), len(strip.cols), d)
        wide = [t.detach().expand(shape).clone().requires_grad_(t.requires_grad) for t in wide]
        gradients = _gradients(score.formula(Gaussian(*wide[:2]), Gaussian(*wide[2:])).sum(), wide)
        sums = ["ij,ijd->id"] * 2 + ["ij,ijd->jd"] * 2
        return [
            None if gradient is None else torch.einsum(over, weight, gradient.abs())
            for over, gradient in zip(sums, gradients, strict=True)
        ]

    bounds = _gathered(batch, local)
    if not batch.case.forward:  # what the score does not look at has no terms
        learning: Results = {name: leaf.detach() for name, leaf in batch.leaves.items()}
        bounds = {name: torch.zeros_like(t) for name, t in pick(learning, batch).items() if t is not None} | bounds
    return {"loss": loss[sampled(batch)[0]]} | bounds
