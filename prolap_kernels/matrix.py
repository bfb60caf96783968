"""The matrix of scores between all rows of x and all rows of y."""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference
from .backends import pick_backend
from .checks import as_gaussian, check_sides
from .gaussian import Gaussian, widen
from .ops import wants_grad
from .ops.pairs import factors
from .ops.scores import ScoreMatrix
from .scores import Score, find_score


def pairwise_score(
    x: Gaussian | Tensor,
    y: Gaussian | Tensor,
    *,
    score: str | Score = "csd",
    backend: str | None = None,
    **score_options: str,
) -> Tensor:
    """The whole matrix s_ij = s(x_i, y_j), [N, M]; higher is more alike.

    x, y: Gaussians [N, D] and [M, D]; score: a name in `SCORES` or a `Score` of your own; backend as in `pairwise_loss`. In
    float32 (float64 for float64 inputs), differentiable once. N x M x D never exists: a bilinear score is one matrix product, an
    elementwise one is summed over dimensions block by block, and again for the gradients.

    Distances (`csd_distance`, `wasserstein2`) are products and lose nearly equal pairs to cancellation; `backend="reference"`,
    dense and twice differentiable, does not. `inclusion` errs by at most 1e-6 sum_d (|kappa t| + |log term| + |quadratic|) in
    float32, for log-variances in [-30, 20], nearly equal ones too; H(x in y) = -H(y in x) to the last bit. In float32 elementwise
    scores clamp log-variances to +-40. Never retrieve by inclusion alone: see `inclusion_score`.

    Errors: ValueError or TypeError naming the argument.
    """
    score = find_score(score, **score_options)
    x, y = as_gaussian("x", x, score.uses_logvar), as_gaussian("y", y, score.uses_logvar)
    check_sides(("x", "y"), x, y)
    backend = pick_backend(backend, x.mean.device, x.mean.dtype, score)
    if backend == "reference":
        return reference.score_matrix(score, x, y)
    if score.elementwise is not None:
        return ScoreMatrix.apply(*x, *y, score.name, backend, (wants_grad(*x), wants_grad(*y)))  # type: ignore[no-any-return]
    left, right = factors(score, x, y)
    with torch.autocast(x.mean.device.type, enabled=False):
        matrix = widen(left.phi) @ widen(right.phi).T
        matrix = matrix if left.offset is None else matrix + left.offset[:, None]
        return matrix if right.offset is None else matrix + right.offset[None, :]
