"""The truth: dense, eager, literal. N x M x D in memory, twice differentiable, meant for float64 and small inputs."""

from __future__ import annotations

from torch import Tensor

from .gaussian import Gaussian
from .objectives import Objective
from .pairs import counted_pairs, positive_pairs
from .scores import Score


def score_matrix(score: Score, x: Gaussian, y: Gaussian) -> Tensor:
    """s_ij = sum_d f(x_id, y_jd), [N, M]."""
    left = Gaussian(x.mean[:, None], x.logvar[:, None])
    right = Gaussian(y.mean[None], y.logvar[None])
    return score.formula(left, right).sum(-1)


def pair_loss(objective: Objective, logit: Tensor, x_id: Tensor, y_id: Tensor, negatives_only: bool) -> Tensor:
    """The objective's value per row of x, [N], or [1] where it is no sum over rows."""
    positive = positive_pairs(x_id, y_id)
    counted = counted_pairs(x_id, y_id)
    return objective.dense(logit, positive, counted & ~positive if negatives_only else counted)
