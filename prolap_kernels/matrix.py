"""The matrix of scores between all rows of x and all rows of y."""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference
from .backends import pick_backend
from .checks import as_gaussian, check_sides
from .gaussian import Gaussian, widen
from .ops import wants_grad
from .ops.scores import HalfTrace, TileMatrix
from .scores import Lift, Score, find_score


class FusedGaussian(Gaussian):
    """A Gaussian whose trace takes one launch, its gradient included: at small batches launches are the cost."""

    @property
    def half_trace(self) -> Tensor:
        rows: Tensor = HalfTrace.apply(self.logvar, "triton", wants_grad(self.logvar))[0]
        return rows


def lift_sides(rule: Score, x: Gaussian, y: Gaussian, backend: str = "chunked") -> tuple[Lift, Lift]:
    """Both sides as factors of a matrix product; autocast keeps its hands off the sums."""
    assert rule.lift_x is not None
    assert rule.lift_y is not None
    if backend == "triton":
        x, y = FusedGaussian(*x), FusedGaussian(*y)
    with torch.autocast(x.mean.device.type, enabled=False):
        return rule.lift_x(x), rule.lift_y(y)


def pairwise_score(
    x: Gaussian | Tensor, y: Gaussian | Tensor, *, score: str = "csd", backend: str | None = None, **score_options: str
) -> Tensor:
    """The matrix s_ij = s(x_i, y_j), [N, M], for when it is wanted; higher is more alike.

    x, y: Gaussians [N, D] and [M, D]; score: a name in `SCORES`; backend as in `pairwise_loss`. In float32 (float64 for float64
    inputs), differentiable once. N x M x D never exists: lifts are one matrix product, the others are summed over dimensions as
    they are made, and again for the gradients.

    Lifts of distances (`csd_distance`, `wasserstein2`) lose nearly equal pairs to cancellation; `backend="reference"`, dense and
    twice differentiable, does not. `inclusion` errs by at most 1e-6 sum_d (|kappa t| + |log term| + |quadratic|) in float32, for
    log-variances in [-30, 20], nearly equal ones too; H(x in y) = -H(y in x) to the last bit. Beyond +-40 the variances of the
    scores that are sums over dimensions stand still in float32 (`scores.parts`).

    H orders generality, not similarity: for a wider y it grows with the distance of the means. Never retrieve by H alone.

    Errors: ValueError or TypeError naming the argument.
    """
    rule = find_score(score, **score_options)
    x, y = as_gaussian("x", x, rule.uses_logvar), as_gaussian("y", y, rule.uses_logvar)
    check_sides(("x", "y"), x, y)
    how = pick_backend(backend, x.mean.device, x.mean.dtype)
    if how == "reference":
        return reference.score_matrix(rule, x, y)
    if rule.tile is not None:
        matrix: Tensor = TileMatrix.apply(*x, *y, rule.name, how, (wants_grad(*x), wants_grad(*y)))
        return matrix
    left, right = lift_sides(rule, x, y)
    with torch.autocast(x.mean.device.type, enabled=False):
        matrix = widen(left.phi) @ widen(right.phi).T
        matrix = matrix if left.offset is None else matrix + left.offset[:, None]
        return matrix if right.offset is None else matrix + right.offset[None, :]
