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
    """Of k rows that have seen nothing: of the positives the largest logit, the sum of exponentials below it, the sum of
    distances below it and the number; of the others the largest logit and the sum of exponentials below it."""
    low, zero = like.new_full((k,), float("-inf")), like.new_zeros(k)
    return low, zero, zero.clone(), zero.clone(), low.clone(), zero.clone()


def _finite(top: Tensor) -> Tensor:
    """What exponents are counted from: where nothing is there yet, from 0, since inf - inf is NaN."""
    return torch.where(top.isinf(), 0.0, top)


def measure(logit: Tensor, positive: Tensor, counted: Tensor | None, dim: int) -> Side:
    hits = positive if counted is None else positive & counted
    others = ~positive if counted is None else counted & ~positive
    best, top = (torch.where(some, logit, float("-inf")).amax(dim) for some in (hits, others))
    below = torch.where(hits, _finite(best).unsqueeze(dim), _finite(top).unsqueeze(dim)).sub_(logit)
    e = below.neg().exp_()
    sums = [torch.where(some, value, 0.0).sum(dim) for some, value in ((hits, e), (hits, below), (others, e))]
    return best, sums[0], sums[1], hits.to(logit.dtype).sum(dim), top, sums[2]


def merge(a: Side, b: Side) -> Side:
    best, top = torch.maximum(a[0], b[0]), torch.maximum(a[4], b[4])
    origin, other = _finite(best), _finite(top)

    def spread(side: Side) -> Tensor:
        return torch.where(side[3] > 0, side[2] + side[3] * (origin - _finite(side[0])), 0.0)

    hits = a[1] * (a[0] - origin).exp() + b[1] * (b[0] - origin).exp()
    rest = a[5] * (a[4] - other).exp() + b[5] * (b[4] - other).exp()
    return best, hits, spread(a) + spread(b), a[3] + b[3], top, rest


def _weigh(best: Tensor, hits: Tensor, spread: Tensor, count: Tensor, top: Tensor, rest: Tensor) -> tuple[Tensor, Side]:
    """A row's loss is log(1 + others/positives) + log(sum of e^(l - best)) + mean of (best - l) over its positives: no term is
    ever subtracted, and with one positive only the first is there."""
    alive = count > 0
    weight = alive.to(best) * 0.5 / alive.sum().clamp(min=1)
    best, log_hits, share = _finite(best), hits.log(), 1 / count.clamp(min=1)
    odds = torch.where(rest == 0, float("-inf"), (_finite(top) - best) + rest.log() - log_hits)
    among = torch.where(hits == 0, float("inf"), log_hits + spread * share)
    loss = torch.where(alive, weight * (torch.logaddexp(odds, torch.zeros_like(odds)) + among), 0.0).sum()
    largest = torch.maximum(best, torch.where(rest == 0, best, _finite(top)))
    log_sum = (hits * (best - largest).exp() + rest * (top - largest).exp()).log()
    # in a row without positives every probability is an exact zero: exp(l - inf)
    largest, log_sum = largest.masked_fill(~alive, float("inf")), log_sum.masked_fill(~alive, 0)
    return loss, (best, log_hits, largest, log_sum, odds.sigmoid(), weight, share, count)


def finish(rows: Side, cols: Side) -> tuple[Tensor, Side, Side]:
    """The loss; for rows and columns: largest logit and log-sum among the positives, the same among all, share of the others in
    the sum, weight in the loss, 1/|P|, |P|."""
    (row_loss, row), (col_loss, col) = _weigh(*rows), _weigh(*cols)
    return (row_loss + col_loss).reshape(1), row, col


def _slope(logit: Tensor, positive: Tensor, side: Side) -> Tensor:
    """p_ij of the others, p_ij - 1/|P| of the positives: with h their share among the positives and q that of the others in the
    sum, p = h (1 - q), and one positive has h = 1 exactly, so that -(1 - p) = -q however small."""
    best, log_hits, largest, log_sum, q, _, share, _ = side
    e = (logit - torch.where(positive, best, largest)).sub_(torch.where(positive, log_hits, log_sum)).exp_()
    return torch.where(positive, (e - share).sub_(e * q), e)


def pair(logit: Tensor, positive: Tensor, row: Side, col: Side) -> tuple[None, Tensor]:
    """dL/dlogit = w_i (p_ij - y_ij/|P_i|) + w_j (q_ij - y_ij/|P_j|), p and q the row and column probabilities."""
    grad = _slope(logit, positive, row).mul_(row[5])
    return None, grad.add_(_slope(logit, positive, col).mul_(col[5]))


def pair_slope(logit: Tensor, positive: Tensor, row: Side, col: Side) -> Tensor:
    slope = _slope(logit, positive, row)
    return torch.where(row[7] > 0, torch.where(positive, row[7] * slope, slope), 1.0)


SOFTMAX = Objective("softmax", dense, slope, pair, pair_slope, Normaliser(empty, measure, merge, finish), averages=True)
