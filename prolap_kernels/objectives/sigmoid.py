"""Pairwise sigmoid loss: PPCL with `csd`, SigLIP with `dot`."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Block, Objective, Walk


def dense(logit: Tensor, positive: Tensor, counted: Tensor) -> Tensor:
    """L_i = sum_j -log sigmoid(y_ij logit_ij) over counted pairs, y = +1 for positives and -1 otherwise; [N]."""
    loss = -F.logsigmoid(torch.where(positive, logit, -logit))
    return torch.where(counted, loss, loss.new_zeros(())).sum(1)


def slope(logit: Tensor, positive: Tensor, counted: Tensor) -> Tensor:
    """-sigmoid(-logit) of positives, sigmoid(logit) of negatives."""
    return torch.where(positive, -(-logit).sigmoid(), logit.sigmoid())


def prepare(walk: Walk, n: int, m: int) -> tuple[None, None]:
    """Nothing: the sigmoid has no normaliser."""
    return None, None


def tile(block: Block, statistics: Any) -> tuple[Tensor, Tensor]:
    """softplus(z) and +-sigmoid(z) with z = logit for negatives, -logit for positives: nothing is added and later subtracted."""
    z = torch.where(block.positive, -block.logit, block.logit)
    loss = F.softplus(z)
    grad = z.sigmoid_()
    torch.where(block.positive, -grad, grad, out=grad)
    if block.counted is not None:
        left_out = ~block.counted
        loss.masked_fill_(left_out, 0)
        grad.masked_fill_(left_out, 0)
    return loss.sum(1), grad


SIGMOID = Objective("sigmoid", dense, slope, prepare, tile)
