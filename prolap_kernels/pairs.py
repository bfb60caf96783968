"""Pairs: signs and counts from their ids, and the statistics that people log beside a contrastive loss.

Equal ids make a positive pair, different ids a negative one; a pair with a negative id is left out.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def resolve_ids(
    x_id: Tensor | None, y_id: Tensor | None, n: int, m: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Both ids as int64 [n] and [m]; by default row i of x belongs to row i of y and to no other."""
    if x_id is None or y_id is None:
        index = torch.arange(max(n, m), device=device)
        return index[:n], index[:m]
    return x_id.to(device=device, dtype=torch.int64), y_id.to(device=device, dtype=torch.int64)


def positive_pairs(x_id: Tensor, y_id: Tensor) -> Tensor:
    """Pairs with equal ids, [n, m] bool. Ignored rows may be equal too: combine with `counted_pairs`."""
    return x_id[:, None] == y_id[None, :]


def counted_pairs(x_id: Tensor, y_id: Tensor) -> Tensor:
    """Pairs without an ignored side, [n, m] bool."""
    return (x_id >= 0)[:, None] & (y_id >= 0)[None, :]


def count_pairs(x_id: Tensor, y_id: Tensor, negatives_only: bool) -> Tensor:
    """The number of pairs that count, 0-d int64, in O((n + m) log m) and without an n x m mask."""
    counted = (x_id >= 0).sum() * (y_id >= 0).sum()
    if not negatives_only:
        return counted
    ordered = y_id.sort().values
    equal = torch.searchsorted(ordered, x_id, right=True) - torch.searchsorted(ordered, x_id)
    return counted - equal.masked_fill(x_id < 0, 0).sum()


SATURATED = 1e-3
"""A pair counts as saturated where the gradient of its own loss by its logit is smaller than this."""


class PairStats(NamedTuple):
    """Statistics of the counted pairs, detached 0-d tensors; NaN where there is no such pair.

    positives, negatives: numbers of pairs; positive_logit, negative_logit: their mean logits; positive_saturation,
    negative_saturation: the share of pairs that hardly teach any more, since the gradient of their own loss by their logit is
    below 1e-3 in size. sigmoid: that gradient is -sigmoid(-logit) or sigmoid(logit). softmax: along the rows of x that have a
    positive, |P_i| p_ij - 1 for positives and p_ij for negatives.
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
