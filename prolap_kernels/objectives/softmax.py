"""Symmetric softmax cross-entropy over rows and columns: InfoNCE, CLIP, CLAP."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .base import Block, Objective, Walk


def _direction(logit: Tensor, positive: Tensor, counted: Tensor) -> Tensor:
    hits = positive & counted
    masked = logit.masked_fill(~counted, float("-inf"))
    count = hits.sum(1)
    alive = count > 0
    normaliser = torch.where(alive[:, None], masked, torch.zeros_like(masked)).logsumexp(1)
    matched = torch.where(hits, logit, torch.zeros_like(logit)).sum(1) / count.clamp(min=1)
    loss = torch.where(alive, normaliser - matched, torch.zeros_like(matched))
    return loss.sum() / alive.sum().clamp(min=1)


def dense(logit: Tensor, positive: Tensor, counted: Tensor) -> Tensor:
    """L = (rows + columns)/2, a row's loss -(1/|P|) sum_{j in P} log p_ij, averaged over rows that have a positive; [1]."""
    return 0.5 * (_direction(logit, positive, counted) + _direction(logit.T, positive.T, counted.T)).reshape(1)


def slope(logit: Tensor, positive: Tensor, counted: Tensor) -> Tensor:
    """Along the rows: |P_i| p_ij - 1 of positives, p_ij of negatives; 1 in rows without a positive, which teach nothing."""
    hits = positive & counted
    count = hits.sum(1, keepdim=True)
    p = logit.masked_fill(~counted, float("-inf")).softmax(1)
    return torch.where(count > 0, torch.where(hits, count * p - 1, p), torch.ones_like(p))


class Side(NamedTuple):
    """Statistics of the rows (or columns): log-sum-exp, mean positive logit, weight in the loss, weight of a positive."""

    normaliser: Tensor
    weight: Tensor
    hit_weight: Tensor


def _finish(normaliser: Tensor, matched: Tensor, count: Tensor) -> tuple[Tensor, Side]:
    alive = count > 0
    weight = alive.to(normaliser) * 0.5 / alive.sum().clamp(min=1)
    per_hit = weight / count.clamp(min=1)
    loss = torch.where(alive, weight * normaliser - per_hit * matched, torch.zeros_like(matched)).sum()
    # +inf makes every probability of a row without positives an exact zero
    return loss, Side(normaliser.masked_fill(~alive, float("inf")), weight, per_hit)


def prepare(walk: Walk, n: int, m: int) -> tuple[Tensor, tuple[Side, Side] | None]:
    """Row and column log-sum-exp in one pass over the blocks."""
    sums: list[list[Tensor]] = []
    for block in walk():
        logit, hits = block.logit, block.positive
        if block.counted is not None:
            hits = hits & block.counted
            logit = logit.masked_fill(~block.counted, float("-inf"))
        if not sums:
            sums = [[logit.new_full((k,), float("-inf")), logit.new_zeros(k), logit.new_zeros(k)] for k in (n, m)]
        matched = torch.where(hits, logit, logit.new_zeros(()))
        for (normaliser, total, count), part, dim in zip(sums, (block.rows, block.cols), (1, 0), strict=True):
            normaliser[part] = torch.logaddexp(normaliser[part], logit.logsumexp(dim))
            total[part] += matched.sum(dim)
            count[part] += hits.sum(dim)
    if not sums:
        return torch.zeros(1), None  # no pair at all
    (row_loss, rows), (col_loss, cols) = (_finish(*side) for side in sums)
    return (row_loss + col_loss).reshape(1), (rows, cols)


def tile(block: Block, statistics: tuple[Side, Side]) -> tuple[None, Tensor]:
    """dL/dlogit = w_i (p_ij - y_ij/|P_i|) + w_j (q_ij - y_ij/|P_j|), p and q the row and column probabilities."""
    rows, cols = statistics
    r, c = Side(*(s[block.rows, None] for s in rows)), Side(*(s[None, block.cols] for s in cols))
    grad = (block.logit - r.normaliser).exp_().mul_(r.weight)
    grad += (block.logit - c.normaliser).exp_().mul_(c.weight)
    grad -= torch.where(block.positive, r.hit_weight + c.hit_weight, grad.new_zeros(()))
    if block.counted is not None:
        grad.masked_fill_(~block.counted, 0)
    return None, grad


SOFTMAX = Objective("softmax", dense, slope, prepare, tile, averages=True)
