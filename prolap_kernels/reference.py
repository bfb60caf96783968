"""The truth: dense, eager, literal. It takes N x M x D of memory, is twice differentiable, and suits small float64 inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from .gaussian import Gaussian, widen
from .objectives import Objective
from .pairs import SATURATED, counted_pairs, positive_pairs
from .scores import Score


def score_matrix(score: Score, x: Gaussian, y: Gaussian) -> Tensor:
    """s_ij = sum_d f(x_id, y_jd), [N, M], in float32 at least."""
    left = Gaussian(*(widen(t)[:, None] for t in x))
    right = Gaussian(*(widen(t)[None] for t in y))
    return score.formula(left, right).sum(-1)


def pair_loss(objective: Objective, logit: Tensor, x_id: Tensor, y_id: Tensor, negatives_only: bool) -> Tensor:
    """The objective's value per row of x, [N], or [1] if it averages."""
    return objective.dense(logit, *_pairs(x_id, y_id, negatives_only))


def pair_stats(objective: Objective, logit: Tensor, x_id: Tensor, y_id: Tensor, negatives_only: bool) -> Tensor:
    """[4, N], sums over the counted pairs of a row: logits of positives, of negatives, saturated positives, negatives."""
    positive, counted = _pairs(x_id, y_id, negatives_only)
    logit = logit.detach()
    sides = (counted & positive, counted & ~positive)
    saturated = objective.dense_gradient(logit, positive, counted).abs() < SATURATED
    zero = logit.new_zeros(())
    logits = [torch.where(side, logit, zero).sum(1) for side in sides]
    return torch.stack([*logits, *((side & saturated).sum(1).to(logit) for side in sides)])


def _pairs(x_id: Tensor, y_id: Tensor, negatives_only: bool) -> tuple[Tensor, Tensor]:
    positive = positive_pairs(x_id, y_id)
    counted = counted_pairs(x_id, y_id)
    return positive, counted & ~positive if negatives_only else counted
