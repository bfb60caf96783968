"""What people log beside a contrastive loss."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

SATURATED = 1e-3
"""A pair counts as saturated where the slope of its loss by its logit is smaller than this."""


class PairStats(NamedTuple):
    """Statistics of the counted pairs, detached 0-d tensors; NaN where there is no such pair.

    positives, negatives: how many pairs; positive_logit, negative_logit: their mean logit; positive_saturation,
    negative_saturation: the share of them whose slope, the derivative of the pair's own loss by its logit, is below 1e-3 in
    size, so that they hardly teach any more. sigmoid: the slope is -sigmoid(-logit) or sigmoid(logit). softmax: taken along the
    rows of x, |P_i| p_ij - 1 for positives and p_ij for negatives, in rows that have a positive.
    """

    positives: Tensor
    negatives: Tensor
    positive_logit: Tensor
    negative_logit: Tensor
    positive_saturation: Tensor
    negative_saturation: Tensor


def finish(sums: Tensor, positives: Tensor, negatives: Tensor) -> PairStats:
    """sums [4, N] as in `backends.problem.PairSums`; counts are 0-d. The last sum is taken in float64."""
    total = sums.detach().double().sum(1)
    counts = torch.stack([positives, negatives]).double()
    means = total / counts.repeat(2)
    values = torch.cat([counts, means]).to(sums.dtype)
    return PairStats(*values.unbind())
