"""Tiles in float64 at any size: value and gradients strip by strip, and the sums of absolute terms that bound their errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from prolap_kernels import Gaussian
from prolap_kernels.reference import score_matrix
from prolap_kernels.scores import CONVENTIONS, SCORES

from .cases import Batch

CELLS = {"cpu": 1 << 22, "cuda": 1 << 26}
"""N x M x D of a strip."""


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


def strips(batch: Batch) -> Iterator[slice]:
    """Rows of x, few enough for an N x M x D of them."""
    n, m, d = batch.shape
    height = max(1, CELLS[batch.x.mean.device.type] // max(1, m * d))
    return (slice(i, min(i + height, n)) for i in range(0, n, height))


def strip_results(batch: Batch, loss: Callable[[Batch, Tensor], Tensor]) -> dict[str, Tensor | None]:
    """Value and gradient of every leaf, by the literal formula: first the matrix, then its gradients. loss(batch, matrix)."""
    rule = SCORES[batch.case.score]
    batch.clear()
    with torch.no_grad():
        matrix = torch.cat([score_matrix(rule, batch.x.rows(part), batch.y) for part in strips(batch)])
    value = matrix
    if batch.case.is_matrix:
        assert batch.weights is not None
        upstream: Tensor | None = None if batch.case.forward else batch.weights.dense
    else:
        value = loss(batch, matrix.requires_grad_())
        value.backward()
        upstream = matrix.grad
    for part in strips(batch) if upstream is not None else ():
        assert upstream is not None
        score_matrix(rule, batch.x.rows(part), batch.y).backward(upstream[part])
    found: dict[str, Tensor | None] = {"loss": value.detach()}
    found |= {name: leaf.grad for name, leaf in batch.leaves.items()}
    batch.clear()
    return found


def sizes(batch: Batch) -> dict[str, Tensor]:
    """Of a matrix in float64: "loss", sum_d |terms of f|, [N, M]; of every leaf that learns sum_j |w_ij df_ij|, [N, D]."""
    rule, (n, m, _) = SCORES[batch.case.score], batch.shape
    terms = TERMS.get(rule.name, lambda x, y: [rule.formula(x, y)])
    found = {"loss": batch.x.mean.new_empty(n, m)}
    if not batch.case.forward:
        found |= {name: torch.zeros_like(leaf, requires_grad=False) for name, leaf in batch.leaves.items()}
    for part in strips(batch):
        x, y = batch.x.rows(part), batch.y
        left, right = (Gaussian(z.mean.detach()[at], z.logvar.detach()[at])
                       for z, at in ((x, (slice(None), None)), (y, (None,))))  # fmt: skip
        found["loss"][part] = sum(term.abs().expand(len(x.mean), m, -1).sum(-1) for term in terms(left, right))
        if batch.case.forward:
            continue
        assert batch.weights is not None
        weight = batch.weights.dense[part].abs()
        shape = torch.broadcast_shapes(left.mean.shape, right.mean.shape)
        wide = [t.expand(shape).clone().requires_grad_() for t in (*left, *right)]
        grads = torch.autograd.grad(
            rule.formula(Gaussian(*wide[:2]), Gaussian(*wide[2:])).sum(), wide, allow_unused=True
        )
        for name, grad in zip(("x.mean", "x.logvar", "y.mean", "y.logvar"), grads, strict=True):
            if grad is None or name not in found:
                continue
            if name[0] == "x":
                found[name][part] = torch.einsum("ij,ijd->id", weight, grad.abs())
            else:
                found[name] += torch.einsum("ij,ijd->jd", weight, grad.abs())
    return found
