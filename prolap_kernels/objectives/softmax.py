"""Symmetric softmax cross-entropy over rows and columns: InfoNCE, CLIP, CLAP."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .base import Normaliser, Objective, Side, register_objective


class Totals(NamedTuple):
    """Totals of a row's counted pairs. Positives: the largest logit, sum of exp(logit - best), sum of best - logit, their number.
    Negatives: the largest logit, sum of exp(logit - top)."""

    best: Tensor
    positives: Tensor
    spread: Tensor
    number: Tensor
    top: Tensor
    negatives: Tensor


class Known(NamedTuple):
    """Normalised totals of a row: largest logit and log-sum of the positives, the same of all pairs, the negatives' share of the
    sum, weight in the loss, 1/|P|, |P|."""

    best: Tensor
    log_positives: Tensor
    largest: Tensor
    log_sum: Tensor
    negative_share: Tensor
    weight: Tensor
    share: Tensor
    number: Tensor


def _direction(logit: Tensor, positive: Tensor, counted: Tensor) -> Tensor:
    chosen = positive & counted
    masked = logit.masked_fill(~counted, float("-inf"))
    count = chosen.sum(1)
    alive = count > 0
    normaliser = torch.where(alive[:, None], masked, torch.zeros_like(masked)).logsumexp(1)
    matched = torch.where(chosen, logit, torch.zeros_like(logit)).sum(1) / count.clamp(min=1)
    loss = torch.where(alive, normaliser - matched, torch.zeros_like(matched))
    return loss.sum() / alive.sum().clamp(min=1)


def dense(logit: Tensor, positive: Tensor, counted: Tensor) -> Tensor:
    """L = (rows + columns)/2, a row's loss -(1/|P|) sum_{j in P} log p_ij, averaged over rows that have a positive; [1]."""
    return 0.5 * (_direction(logit, positive, counted) + _direction(logit.T, positive.T, counted.T)).reshape(1)


def dense_gradient(logit: Tensor, positive: Tensor, counted: Tensor) -> Tensor:
    """Along the rows: |P_i| p_ij - 1 of positives, p_ij of negatives; 1 in rows without a positive, which have no loss."""
    chosen = positive & counted
    count = chosen.sum(1, keepdim=True)
    p = logit.masked_fill(~counted, float("-inf")).softmax(1)
    return torch.where(count > 0, torch.where(chosen, count * p - 1, p), torch.ones_like(p))


def empty(k: int, like: Tensor) -> Side:
    """Totals of k rows without pairs."""
    low, zero = like.new_full((k,), float("-inf")), like.new_zeros(k)
    return Totals(low, zero, zero.clone(), zero.clone(), low.clone(), zero.clone())


def _finite(top: Tensor) -> Tensor:
    """The origin of exponents: `top`, or 0 where there is no pair yet, since inf - inf is NaN."""
    return torch.where(top.isinf(), 0.0, top)


def measure(logit: Tensor, positive: Tensor, counted: Tensor | None, dim: int, dtype: torch.dtype) -> Side:
    positives = positive if counted is None else positive & counted
    negatives = ~positive if counted is None else counted & ~positive
    best, top = (torch.where(some, logit, float("-inf")).amax(dim) for some in (positives, negatives))
    below = torch.where(positives, _finite(best).unsqueeze(dim), _finite(top).unsqueeze(dim)).sub_(logit)
    e = below.neg().exp_()
    terms = (positives, e), (positives, below), (negatives, e)
    sums = [torch.where(k, value, 0.0).sum(dim, dtype=dtype).to(logit.dtype) for k, value in terms]
    return Totals(best, sums[0], sums[1], positives.to(logit.dtype).sum(dim), top, sums[2])


def merge(first: Side, second: Side) -> Side:
    a, b = Totals(*first), Totals(*second)
    best, top = torch.maximum(a.best, b.best), torch.maximum(a.top, b.top)
    origin, other = _finite(best), _finite(top)

    def spread(side: Totals) -> Tensor:
        return torch.where(side.number > 0, side.spread + side.number * (origin - _finite(side.best)), 0.0)

    positives = a.positives * (a.best - origin).exp() + b.positives * (b.best - origin).exp()
    negatives = a.negatives * (a.top - other).exp() + b.negatives * (b.top - other).exp()
    return Totals(best, positives, spread(a) + spread(b), a.number + b.number, top, negatives)


def _weigh(side: Side) -> tuple[Tensor, Side]:
    """A row's loss is log(1 + negatives/positives) + log(sum of e^(l - best)) + mean of (best - l) over its positives. No term is
    subtracted, and with one positive only the first is not 0."""
    best, positives, spread, count, top, negatives = side
    alive = count > 0
    weight = alive.to(best) * 0.5 / alive.sum().clamp(min=1)
    best, log_positives, share = _finite(best), positives.log(), 1 / count.clamp(min=1)
    odds = torch.where(negatives == 0, float("-inf"), (_finite(top) - best) + negatives.log() - log_positives)
    among = torch.where(positives == 0, float("inf"), log_positives + spread * share)
    loss = torch.where(alive, weight * (torch.logaddexp(odds, torch.zeros_like(odds)) + among), 0.0).sum()
    largest = torch.maximum(best, torch.where(negatives == 0, best, _finite(top)))
    log_sum = (positives * (best - largest).exp() + negatives * (top - largest).exp()).log()
    # in a row without positives every probability is an exact zero: exp(l - inf)
    largest, log_sum = largest.masked_fill(~alive, float("inf")), log_sum.masked_fill(~alive, 0)
    return loss, Known(best, log_positives, largest, log_sum, odds.sigmoid(), weight, share, count)


def finish(rows: Side, cols: Side) -> tuple[Tensor, Side, Side]:
    """The loss, and what is known of rows and of columns."""
    (row_loss, row), (col_loss, col) = _weigh(rows), _weigh(cols)
    return (row_loss + col_loss).reshape(1), row, col


def _side_gradient(logit: Tensor, positive: Tensor, side: Known) -> Tensor:
    """p_ij of negatives, p_ij - 1/|P| of positives. p = h (1 - q), with h the pair's share of the positives and q the negatives'
    share of the sum: a single positive has h = 1 exactly, so p - 1 = -q, however small."""
    shift = torch.where(positive, side.best, side.largest)
    e = (logit - shift).sub_(torch.where(positive, side.log_positives, side.log_sum)).exp_()
    return torch.where(positive, (e - side.share).sub_(e * side.negative_share), e)


def pair(logit: Tensor, positive: Tensor, row: Side, col: Side) -> tuple[None, Tensor]:
    """dL/dlogit = w_i (p_ij - y_ij/|P_i|) + w_j (q_ij - y_ij/|P_j|), p and q the row and column probabilities."""
    known = Known(*row), Known(*col)
    grad = _side_gradient(logit, positive, known[0]).mul_(known[0].weight)
    return None, grad.add_(_side_gradient(logit, positive, known[1]).mul_(known[1].weight))


def pair_gradient(logit: Tensor, positive: Tensor, row: Side, col: Side) -> Tensor:
    known = Known(*row)
    grad = _side_gradient(logit, positive, known)
    return torch.where(known.number > 0, torch.where(positive, known.number * grad, grad), 1.0)


SOFTMAX = register_objective(
    Objective(
        "softmax", dense, dense_gradient, pair, pair_gradient, Normaliser(empty, measure, merge, finish), averages=True
    )
)
