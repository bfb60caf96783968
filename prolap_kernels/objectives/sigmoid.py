"""Pairwise sigmoid loss: PPCL with `csd`, SigLIP with `dot`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Objective, Side, register_objective


def dense(logit: Tensor, positive: Tensor, counted: Tensor) -> Tensor:
    """L_i = sum_j -log sigmoid(y_ij logit_ij) over counted pairs, y = +1 for positives and -1 otherwise; [N]."""
    loss = -F.logsigmoid(torch.where(positive, logit, -logit))
    return torch.where(counted, loss, loss.new_zeros(())).sum(1)


def dense_gradient(logit: Tensor, positive: Tensor, counted: Tensor) -> Tensor:
    """-sigmoid(-logit) of positives, sigmoid(logit) of negatives."""
    return torch.where(positive, -(-logit).sigmoid(), logit.sigmoid())


def pair(logit: Tensor, positive: Tensor, row: Side, col: Side) -> tuple[Tensor, Tensor]:
    """softplus(z) and +-sigmoid(z), with z = logit of negatives and -logit of positives. Both come from e = exp(-|z|) <= 1, so
    small terms keep their digits."""
    z = torch.where(positive, -logit, logit)
    e = z.abs().neg_().exp_()
    size = torch.where(z < 0, e, 1.0).div_(1 + e)
    loss = e.log1p_().add_(z.clamp_(min=0))
    return loss, torch.where(positive, -size, size)


def pair_gradient(logit: Tensor, positive: Tensor, row: Side, col: Side) -> Tensor:
    return pair(logit, positive, row, col)[1]


SIGMOID = register_objective(Objective("sigmoid", dense, dense_gradient, pair, pair_gradient))
