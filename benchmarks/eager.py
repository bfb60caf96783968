"""The losses as others write them: dense in plain torch, by PyKeOps, and the bare matrix products that nobody beats."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from prolap_kernels import Gaussian
from prolap_kernels.gaussian import widen
from prolap_kernels.pairs import counted_pairs, positive_pairs
from prolap_kernels.scores import CONVENTIONS, SCORES, Score

from .cases import NEGATIVES, Batch, Loss


def eager(batch: Batch) -> Tensor:
    """N x M in memory, logsigmoid or log_softmax: the loss in plain torch, dense but exact in its small terms."""
    score = scores(batch)
    return score if batch.case.is_matrix else dense_loss(batch, score)


def scores(batch: Batch) -> Tensor:
    """The N x M matrix as a careful user writes it: a matrix product in the dtype of the means, float32 after it; of an
    elementwise score the sum over an N x M x D that broadcasts."""
    score = SCORES[batch.case.score]
    if score.factor_x is None or score.factor_y is None:
        return elementwise_scores(score, batch.x, batch.y)
    left, right = score.factor_x(batch.x), score.factor_y(batch.y)
    matrix = widen(left.phi @ right.phi.T)
    if left.offset is not None:
        matrix = matrix + left.offset[:, None]
    return matrix if right.offset is None else matrix + right.offset[None, :]


def elementwise_scores(score: Score, x: Gaussian, y: Gaussian) -> Tensor:
    """s_ij = sum_d f(x_id, y_jd), [N, M]: the formula of this package's engine, exponentials taken of the rows, gradients by
    autograd."""
    function = score.elementwise
    assert function is not None
    x, y = (Gaussian(function.mean_scale * widen(z.mean), widen(z.logvar)) for z in (x, y))
    left = [part[:, None] for part in _three(function.parts_x(*x))]
    right = [part[None] for part in _three(function.parts_y(*y))]
    matrix: Tensor = function.value(*left, *right).sum(-1)
    if (
        function.logvar_x and function.logvar_x == -function.logvar_y
    ):  # their difference keeps digits that two sums would not
        gap = y.logvar.double().sum(1) - x.logvar.double().sum(1)[:, None]
        return matrix + function.logvar_y * gap.to(matrix.dtype)
    if function.logvar_x or function.logvar_y:
        matrix = matrix + function.logvar_x * x.logvar.sum(1)[:, None] + function.logvar_y * y.logvar.sum(1)
    return matrix


def _three(parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (*parts, parts[0], parts[0])[:3]


def dense_loss(batch: Batch, score: Tensor) -> Tensor:
    """The loss of a matrix of scores."""
    n, m = score.shape
    ids = batch.x_id is not None
    x_id = batch.x_id if ids else torch.arange(n, device=score.device)
    y_id = batch.y_id if ids else torch.arange(m, device=score.device)
    positive = positive_pairs(x_id, y_id)
    counted = counted_pairs(x_id, y_id) if ids else None
    if batch.case.objective == "softmax":
        logit, turned = batch.scale * score, None if counted is None else counted.T
        return 0.5 * (_cross_entropy(logit, positive, counted) + _cross_entropy(logit.T, positive.T, turned))
    logit = batch.scale * score + batch.bias
    loss = -F.logsigmoid(torch.where(positive, logit, -logit))
    if batch.case.pairs == NEGATIVES:
        loss = loss.masked_fill(positive, 0)
    if counted is not None:
        loss = loss.masked_fill(~counted, 0)
    return loss.sum() / (n if batch.x_id is None else (batch.x_id >= 0).sum())


def _cross_entropy(logit: Tensor, positive: Tensor, counted: Tensor | None) -> Tensor:
    """Over rows."""
    if counted is None and logit.shape[0] == logit.shape[1]:
        return F.cross_entropy(logit, torch.arange(len(logit), device=logit.device))
    targets = positive if counted is None else positive & counted
    masked = logit if counted is None else logit.masked_fill(~counted, torch.finfo(logit.dtype).min)
    count = targets.sum(1)
    row = -masked.log_softmax(1).masked_fill(~targets, 0).sum(1) / count.clamp(min=1)
    return row.sum() / (count > 0).sum().clamp(min=1)


def limit() -> Loss:
    """No loss: the scores and both gradient products by the vendor's library in the same dtype, into memory that it keeps."""
    kept: list[Tensor] = []

    @torch.no_grad()
    def products(batch: Batch) -> Tensor:
        if not kept or kept[0] is not batch.x.mean:
            score = SCORES[batch.case.score]
            assert score.factor_x is not None
            assert score.factor_y is not None
            x, y = score.factor_x(batch.x).phi.contiguous(), score.factor_y(batch.y).phi.contiguous()
            kept[:] = [batch.x.mean, x, y, x.new_empty(len(x), len(y)), torch.empty_like(x), torch.empty_like(y)]
        _, x, y, g, dx, dy = kept
        torch.mm(x, y.T, out=g)
        torch.mm(g, y, out=dx)
        torch.mm(g.T, x, out=dy)
        return dx

    return products


def keops() -> Loss:
    """Inclusion with PyKeOps: the same terms, summed over the dimensions inside its formula, gradients by its own autograd.

    Of the forms tried this is its quickest: its gradients compute shared parts again, which makes a reciprocal square root with a
    polynomial many times as slow. It has no N x M matrix to give: of a matrix it returns the weighted sum of every row, [N].
    """
    import pykeops
    from pykeops.torch import LazyTensor

    pykeops.set_verbose(False)

    def left(value: Tensor) -> Any:
        return LazyTensor(value.contiguous()[:, None])

    def right(value: Tensor) -> Any:
        return LazyTensor(value.contiguous()[None])

    def loss(batch: Batch) -> Tensor:
        """Rows of the weighted matrix, or the loss with the diagonal as positives."""
        kappa, rho = CONVENTIONS["prolip" if batch.case.score.endswith("prolip") else "exact"]
        x, y = (Gaussian(widen(z.mean), widen(z.logvar)) for z in (batch.x, batch.y))
        gap = (left(x.mean) - right(y.mean)).square()
        score = _inclusion(left(x.var), right(y.var), gap, rho).sum(-1)
        score = score + kappa * (right(y.logvar.sum(1, keepdim=True)) - left(x.logvar.sum(1, keepdim=True)))
        if batch.case.is_matrix:
            assert batch.weights is not None
            return ((left(batch.weights.left) * right(batch.weights.right)).sum(-1) * score).sum(1).squeeze(1)
        diagonal = _inclusion(x.var, y.var, (x.mean - y.mean).square(), rho) + kappa * (y.logvar - x.logvar)
        logit, positives = LazyTensor(batch.scale.view(1)) * score, batch.scale * diagonal.sum(1)
        if batch.case.objective == "softmax":
            rows, columns = (logit.logsumexp(dim).squeeze(1) for dim in (1, 0))
            return 0.5 * (rows + columns).mean() - positives.mean()
        assert batch.bias is not None
        logit, positives = logit + LazyTensor(batch.bias.view(1)), positives + batch.bias
        every = (logit.relu() + (1 + (-logit.abs()).exp()).log()).sum(1)
        return (every.sum() - positives.sum()) / len(positives)  # softplus(-z) = softplus(z) - z

    return loss


def _inclusion(vx: Any, vy: Any, gap: Any, rho: float) -> Any:
    """h = rho (mx - my)^2 (vy - vx)/(wx wy) + log(wx/wy)/2, wx = 2 vx + vy, wy = vx + 2 vy, per dimension; kappa (ly - lx) is a
    term of the rows. For LazyTensors and tensors."""
    wide_x, wide_y = 2 * vx + vy, vx + 2 * vy
    return rho * gap * (vy - vx) / (wide_x * wide_y) + 0.5 * (wide_x / wide_y).log()
