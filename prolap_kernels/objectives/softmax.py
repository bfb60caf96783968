"""Symmetric softmax cross-entropy over rows and columns: InfoNCE, CLIP, CLAP."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Normaliser, Objective, Side


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


def empty(k: int, like: Tensor) -> Side:
    """Log-sum-exp, sum of positive logits and number of positives of k rows, so far."""
    return like.new_full((k,), float("-inf")), like.new_zeros(k), like.new_zeros(k)


def measure(logit: Tensor, positive: Tensor, counted: Tensor | None, dim: int) -> Side:
    hits = positive if counted is None else positive & counted
    masked = logit if counted is None else torch.where(counted, logit, float("-inf"))
    return masked.logsumexp(dim), torch.where(hits, logit, 0.0).sum(dim), hits.to(logit.dtype).sum(dim)


def merge(a: Side, b: Side) -> Side:
    return torch.logaddexp(a[0], b[0]), a[1] + b[1], a[2] + b[2]


def _weigh(normaliser: Tensor, matched: Tensor, count: Tensor) -> tuple[Tensor, Side]:
    alive = count > 0
    weight = alive.to(normaliser) * 0.5 / alive.sum().clamp(min=1)
    per_hit = weight / count.clamp(min=1)
    loss = torch.where(alive, weight * normaliser - per_hit * matched, torch.zeros_like(matched)).sum()
    # +inf makes every probability of a row without positives an exact zero
    return loss, (normaliser.masked_fill(~alive, float("inf")), weight, per_hit, count)


def finish(rows: Side, cols: Side) -> tuple[Tensor, Side, Side]:
    """The loss; for rows and columns: log-sum-exp, weight in the loss, weight of a positive, number of positives."""
    (row_loss, row), (col_loss, col) = _weigh(*rows), _weigh(*cols)
    return (row_loss + col_loss).reshape(1), row, col


def pair(logit: Tensor, positive: Tensor, row: Side, col: Side) -> tuple[None, Tensor]:
    """dL/dlogit = w_i (p_ij - y_ij/|P_i|) + w_j (q_ij - y_ij/|P_j|), p and q the row and column probabilities."""
    grad = (logit - row[0]).exp_().mul_(row[1])
    grad += (logit - col[0]).exp_().mul_(col[1])
    return None, torch.where(positive, grad - (row[2] + col[2]), grad)


def pair_slope(logit: Tensor, positive: Tensor, row: Side, col: Side) -> Tensor:
    p = (logit - row[0]).exp_()
    return torch.where(row[3] > 0, torch.where(positive, row[3] * p - 1, p), 1.0)


SOFTMAX = Objective("softmax", dense, slope, pair, pair_slope, Normaliser(empty, measure, merge, finish), averages=True)
