"""Tiles in float64 at any size: value and gradients strip by strip, and the sums of absolute terms that bound their errors.

Of a large batch on a CPU not all rows: entries of a matrix on some rows of x, gradients on some rows of either side, each against
all of the other side. A loss is always that of all pairs.
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

from .cases import Batch

CELLS = {"cpu": 1 << 19, "cuda": 1 << 26}
"""N x M x D of a strip."""
WHOLE = {"cpu": 1 << 27}
"""N x M x D up to which every row is checked; where none is named all are, at any size."""
SAMPLE = 1 << 26
"""N x M x D of the sampled rows of both sides, where not all are checked."""
Results = dict[str, Tensor | None]


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
    return [
        0.5 * (x.mean - y.mean).square() / both,
        0.5 * both.log(),
        torch.full_like(both, 0.5 * math.log(2 * math.pi)),
    ]


TERMS: dict[str, Callable[[Gaussian, Gaussian], list[Tensor]]] = {
    "inclusion": lambda x, y: _inclusion(x, y, "exact"),
    "inclusion/prolip": lambda x, y: _inclusion(x, y, "prolip"),
    "containment": _containment,
    "elk": _elk,
}
"""Terms of f that cancel each other; of a score without a line here f itself counts, being a sum of terms of one sign."""


def sampled(batch: Batch) -> tuple[Tensor, Tensor]:
    """Places of the rows of x and of y that are checked, ascending: all, or as many of each as SAMPLE allows, by chance."""
    n, m, d = batch.shape
    device = batch.x.mean.device
    most = max(n, m)
    if n * m * d > WHOLE.get(device.type, math.inf):
        most = max(SAMPLE // ((n + m) * d), 1)
    random = torch.Generator().manual_seed(0)
    rows, cols = (torch.randperm(size, generator=random)[:most].sort().values.to(device) for size in (n, m))
    return rows, cols


def pick(found: Results, batch: Batch) -> Results:
    """Of the results of a whole batch those of the rows that `sampled` names."""
    rows, cols = sampled(batch)
    at = {"x": rows, "y": cols}

    def part(name: str, value: Tensor | None) -> Tensor | None:
        place = rows if name == "loss" else at.get(name[:2].rstrip("."))
        return value if value is None or place is None or value.dim() == 0 else value[place]

    return {name: part(name, value) for name, value in found.items()}


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


def _matrix(batch: Batch, rows: Tensor) -> Tensor:
    """[rows, M] without gradients."""
    cols = torch.arange(batch.shape[1], device=rows.device)
    rule, made = SCORES[batch.case.score], [batch.x.mean.new_empty(0, len(cols))]
    with torch.no_grad():
        made += [score_matrix(rule, batch.x.rows(at.rows), batch.y) for at in _cut(batch, Strip(rows, cols, "x"))]
    return torch.cat(made)


def strip_results(batch: Batch, loss: Callable[[Batch, Tensor], Tensor]) -> Results:
    """Value and gradient of every leaf on the sampled rows, by the literal formula: first the matrix, then its gradients.
    loss(batch, matrix)."""
    batch.clear()
    if batch.case.is_matrix:
        assert batch.weights is not None
        found: Results = {"loss": _matrix(batch, sampled(batch)[0])}
        upstream: Tensor | None = None if batch.case.forward else batch.weights.dense
    else:
        matrix = _matrix(batch, torch.arange(batch.shape[0], device=batch.x.mean.device))
        value = loss(batch, matrix.requires_grad_())
        value.backward()
        found, upstream = {"loss": value.detach()}, matrix.grad
    found |= {name: leaf.grad for name, leaf in batch.leaves.items()}
    batch.clear()
    if upstream is None:
        return found
    given = upstream

    def local(leaves: list[Tensor], strip: Strip) -> list[Tensor | None]:
        matrix = score_matrix(SCORES[batch.case.score], Gaussian(*leaves[:2]), Gaussian(*leaves[2:]))
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        found = iter(torch.autograd.grad(matrix, wanted, given[strip.rows][:, strip.cols], allow_unused=True))
        return [next(found) if leaf.requires_grad else None for leaf in leaves]

    return found | _gathered(batch, local)


def _gathered(batch: Batch, local: Callable[[list[Tensor], Strip], list[Tensor | None]]) -> dict[str, Tensor]:
    """Of means and log-variances, on the sampled rows, the sums over strips of what local gives of those of its rows, in their
    order; those that need no gradient there do not require any."""
    made: dict[str, Tensor] = {}
    for strip in strips(batch):
        sides = zip("xxyy", [*batch.x, *batch.y], (strip.rows,) * 2 + (strip.cols,) * 2, strict=True)
        leaves = [t.detach()[at].requires_grad_(side in strip.sides) for side, t, at in sides]
        for name, value in zip(("x.mean", "x.logvar", "y.mean", "y.logvar"), local(leaves, strip), strict=True):
            if value is not None and name in batch.leaves:
                total = made.setdefault(name, value.new_zeros(batch.shape["xy".index(name[0])], batch.shape[2]))
                total[strip.rows if name[0] == "x" else strip.cols] += value
    return {name: value for name, value in pick(dict(made), batch).items() if value is not None}


def sizes(batch: Batch) -> dict[str, Tensor]:
    """Of a matrix in float64, on the sampled rows: "loss", sum_d |terms of f|, [N, M]; of every leaf that learns
    sum_j |w_ij df_ij|, [N, D]."""
    rule, (n, m, d) = SCORES[batch.case.score], batch.shape
    terms = TERMS.get(rule.name, lambda x, y: [rule.formula(x, y)])
    loss = batch.x.mean.new_zeros(n, m)

    def local(leaves: list[Tensor], strip: Strip) -> list[Tensor | None]:
        wide = [t[:, None] if k < 2 else t[None] for k, t in enumerate(leaves)]
        if "x" in strip.sides:
            found = terms(*(Gaussian(*(t.detach() for t in pair)) for pair in (wide[:2], wide[2:])))
            loss[strip.rows] = torch.stack(
                [term.abs().expand(len(strip.rows), m, d).sum(-1) for term in found]
            ).sum(0)  # fmt: skip
        if batch.case.forward:
            return [None] * 4
        assert batch.weights is not None
        weight = batch.weights.dense[strip.rows][:, strip.cols].abs()
        shape = (len(strip.rows), len(strip.cols), d)
        wide = [t.detach().expand(shape).clone().requires_grad_(t.requires_grad) for t in wide]
        wanted = [t for t in wide if t.requires_grad]
        grads = iter(
            torch.autograd.grad(rule.formula(Gaussian(*wide[:2]), Gaussian(*wide[2:])).sum(), wanted, allow_unused=True)
        )
        made: list[Tensor | None] = []
        for k, t in enumerate(wide):
            grad = next(grads) if t.requires_grad else None
            made.append(
                None if grad is None else torch.einsum("ij,ijd->id" if k < 2 else "ij,ijd->jd", weight, grad.abs())
            )
        return made

    found = _gathered(batch, local)
    if not batch.case.forward:  # what the score does not look at has no terms
        learnt: Results = {name: leaf.detach() for name, leaf in batch.leaves.items()}
        idle = {name: torch.zeros_like(t) for name, t in pick(learnt, batch).items() if t is not None}
        found = idle | found
    return {"loss": loss[sampled(batch)[0]]} | found
