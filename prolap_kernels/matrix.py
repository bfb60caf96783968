"""The matrix of scores between all rows of x and all rows of y."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from . import reference
from .autograd import RowLoss, wants_grad
from .checks import as_gaussian, check_sides
from .gaussian import Gaussian, widen
from .scores import Lift, Score, find_score

TILE_CELLS = 1 << 22
"""Cells of a block of N x M x D."""


class FusedGaussian(Gaussian):
    """A Gaussian whose trace takes one launch, its gradient included: at small batches launches are the cost."""

    @property
    def half_trace(self) -> Tensor:
        weight = self.logvar.new_empty(0, dtype=torch.float32)
        form = ("half_trace", 0.0, 0.0, 0.0, "triton", wants_grad(self.logvar))
        rows: Tensor = RowLoss.apply(form, weight, self.logvar)[0]
        return rows


def lift_sides(rule: Score, x: Gaussian, y: Gaussian, backend: str = "chunked") -> tuple[Lift, Lift]:
    """Both sides as factors of a matrix product; autocast keeps its hands off the sums."""
    assert rule.lift_x is not None
    assert rule.lift_y is not None
    if backend == "triton":
        x, y = FusedGaussian(*x), FusedGaussian(*y)
    with torch.autocast(x.mean.device.type, enabled=False):
        return rule.lift_x(x), rule.lift_y(y)


def pairwise_score(x: Gaussian | Tensor, y: Gaussian | Tensor, *, score: str = "csd", **score_options: str) -> Tensor:
    """The matrix s_ij = s(x_i, y_j), [N, M], for when it is wanted; higher is more alike.

    x, y: Gaussians [N, D] and [M, D]; score: a name in `SCORES`. In float32 (float64 for float64 inputs), differentiable.
    N x M x D never exists: lifts are one matrix product, the others go block by block and are computed again in backward.
    Lifts of distances (`csd_distance`, `wasserstein2`) lose nearly equal pairs to cancellation; `backend="reference"` of
    `pairwise_loss` does not.
    """
    rule = find_score(score, **score_options)
    x, y = as_gaussian("x", x, rule.uses_logvar), as_gaussian("y", y, rule.uses_logvar)
    check_sides(("x", "y"), x, y)
    if rule.lift_x is None:
        return tile_matrix(rule, x, y)
    left, right = lift_sides(rule, x, y)
    with torch.autocast(x.mean.device.type, enabled=False):
        matrix = widen(left.phi) @ widen(right.phi).T
        matrix = matrix if left.offset is None else matrix + left.offset[:, None]
        return matrix if right.offset is None else matrix + right.offset[None, :]


def tile_matrix(rule: Score, x: Gaussian, y: Gaussian) -> Tensor:
    """The matrix of a score that is a sum over dimensions, in strips that backward computes again."""
    x, y = (Gaussian(widen(z.mean), widen(z.logvar)) for z in (x, y))
    height = max(1, TILE_CELLS // max(1, y.mean.numel()))

    def strip(*parts: Tensor) -> Tensor:
        return reference.score_matrix(rule, Gaussian(*parts[:2]), Gaussian(*parts[2:]))

    strips = [
        checkpoint(strip, *x.rows(slice(i, i + height)), *y, use_reentrant=False, preserve_rng_state=False)
        for i in range(0, len(x.mean), height)
    ]
    return torch.cat(strips) if strips else x.mean.new_zeros(0, len(y.mean))
