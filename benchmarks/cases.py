"""What is measured: every score with every objective and kind of pairs, and the bare matrix of elementwise scores, on inputs that
look like a model in training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from prolap_kernels import OBJECTIVES, Gaussian, pairwise_loss, pairwise_score
from prolap_kernels import scores as registry
from prolap_kernels.scores import BILINEAR, SCORES

ELEMENTWISE = tuple(score.name for score in registry.ELEMENTWISE)
START = {"dot": (10.0, -10.0), "csd": (10.0, -10.0), "csd_distance": (5.0, 0.0), "wasserstein2": (5.0, 0.0)}
"""Scale and bias at which training starts (SigLIP's), for distances the same logits: 10 csd - 10 = 5 csd_distance."""
ELEMENTWISE_LOGIT, ELEMENTWISE_ROWS = 4.0, 64
"""Elementwise scores start so that positive and negative logits of the first rows lie this far apart, or have this deviation."""
MATRIX = "score"
"""In the place of an objective: the N x M matrix itself, and the gradient of its sum with fixed weights."""
RANK = 4
"""Of the weights: who never has an N x M matrix in memory can still read them, by their factors."""
DIAGONAL, IDS, NEGATIVES = "diagonal", "ids", "negatives"
"""Kinds of pairs. Row i of x belongs to row i of y; or two rows of x share an id with two of y, and every 16th row of x is
ignored; or the pairs off the diagonal alone."""
Shape = tuple[int, int, int]
"""N, M, D."""


class Case(NamedTuple):
    """A loss: a score, an objective, a kind of pairs; or the matrix of a score. forward: without gradients."""

    score: str
    objective: str
    pairs: str
    forward: bool = False

    @property
    def name(self) -> str:
        words = [self.score.replace("/", "_"), self.objective]
        words += [] if self.pairs == DIAGONAL else [self.pairs]
        return "-".join(words + ["forward"] * self.forward)

    @property
    def is_elementwise(self) -> bool:
        return self.score in ELEMENTWISE

    @property
    def is_matrix(self) -> bool:
        return self.objective == MATRIX

    @property
    def passes(self) -> str:
        return "forward" if self.forward else "forward and backward"


class Weights(NamedTuple):
    """Upstream gradient of a matrix: dense = left right^T, [N, M], [N, RANK], [M, RANK]."""

    dense: Tensor
    left: Tensor
    right: Tensor


class Batch(NamedTuple):
    """Inputs of a case; means, log-variances, scale and bias are leaves that learn. bias None: the objective has none."""

    case: Case
    x: Gaussian
    y: Gaussian
    scale: Tensor
    bias: Tensor | None = None
    x_id: Tensor | None = None
    y_id: Tensor | None = None
    weights: Weights | None = None

    @property
    def leaves(self) -> dict[str, Tensor]:
        leaves = {"x.mean": self.x.mean, "y.mean": self.y.mean}
        if SCORES[self.case.score].uses_logvar:
            leaves |= {"x.logvar": self.x.logvar, "y.logvar": self.y.logvar}
        if self.case.is_matrix:
            return leaves
        return leaves | {"scale": self.scale} | ({} if self.bias is None else {"bias": self.bias})

    def clear(self) -> None:
        """Forgets the gradients."""
        for leaf in self.leaves.values():
            leaf.grad = None

    def double(self) -> Batch:
        """The same values in float64, with gradients of their own."""

        def wide(t: Tensor) -> Tensor:
            return t.detach().double().requires_grad_(t.requires_grad)

        x, y = (Gaussian(wide(z.mean), wide(z.logvar)) for z in (self.x, self.y))
        bias = None if self.bias is None else wide(self.bias)
        weights = None if self.weights is None else Weights(*map(wide, self.weights))
        return self._replace(x=x, y=y, scale=wide(self.scale), bias=bias, weights=weights)

    def upstream(self, value: Tensor) -> Tensor | None:
        """What backward starts from: nothing for a loss, the weights for a matrix, ones for rows that are weighted already."""
        if value.dim() == 0:
            return None
        assert self.weights is not None
        return self.weights.dense if value.dim() == 2 else torch.ones_like(value)

    @property
    def shape(self) -> Shape:
        return len(self.x.mean), len(self.y.mean), self.x.mean.shape[1]

    def elements(self) -> int:
        """N M D, the terms of all sums over dimensions: what bounds an elementwise score."""
        return math.prod(self.shape)

    def flops(self) -> int:
        """Of the three matrix products that no exact method avoids: scores, gradient by x, gradient by y."""
        width = 2 if self.case.score == "wasserstein2" else 1
        return 6 * self.elements() * width


Loss = Callable[[Batch], Tensor]


def cases() -> dict[str, Case]:
    """By name; `negatives` only where the objective can leave the positives out; the matrix only of elementwise scores."""
    every = [
        Case(score.name, objective.name, pairs)
        for score in BILINEAR + registry.ELEMENTWISE
        for objective in OBJECTIVES.values()
        for pairs in (DIAGONAL, IDS, NEGATIVES)
        if pairs != NEGATIVES or not objective.averages
    ]
    every += [Case(score, MATRIX, DIAGONAL, forward) for score in ELEMENTWISE for forward in (False, True)]
    return {case.name: case for case in every}


def start(case: Case, x: Gaussian, y: Gaussian) -> tuple[float, float]:
    """Scale and bias; those of an elementwise score, a sum over D of any size, are taken from its first rows in float64."""
    if not case.is_elementwise:
        return START[case.score]
    first = [Gaussian(*(t[:ELEMENTWISE_ROWS].double() for t in z)) for z in (x, y)]
    score = pairwise_score(*first, score=case.score, backend="reference")
    diagonal = torch.eye(*score.shape, dtype=torch.bool, device=score.device)
    positives, negatives = score[diagonal], score[~diagonal]
    if not len(negatives):
        return 1.0, 0.0
    spread = max(float((positives.mean() - negatives.mean()).abs()), float(negatives.std(correction=0)))
    scale = ELEMENTWISE_LOGIT / max(spread, 1e-30)
    return scale, -scale * float(positives.mean() + negatives.mean()) / 2


def make_batch(case: Case, shape: Shape, device: str, dtype: torch.dtype) -> Batch:
    """Unit means, those of matched rows alike; variances that sum to about 0.06; log-variances at least float32."""
    n, m, d = shape
    exact = dtype if dtype == torch.float64 else torch.float32
    random = torch.Generator().manual_seed(0)
    first = torch.randn(n, d, generator=random)
    second = torch.randn(m, d, generator=random)
    second[: min(n, m)] += first[: min(n, m)]

    def side(mean: Tensor) -> Gaussian:
        logvar = -math.log(d) - 3 + 0.5 * torch.randn(mean.shape, generator=random)
        return Gaussian(F.normalize(mean, dim=-1).to(device, dtype), logvar.to(device, exact))

    x, y = side(first), side(second)
    if case.is_matrix:
        left, right = (torch.randn(rows, RANK, generator=random).to(device, exact) for rows in (n, m))
        scale = torch.ones((), device=device, dtype=exact)
        batch = Batch(case, x, y, scale, weights=Weights(left @ right.T, left, right))
    else:
        scale, bias = (torch.tensor(value, device=device, dtype=exact) for value in start(case, x, y))
        batch = Batch(case, x, y, scale, None if OBJECTIVES[case.objective].averages else bias)
    if case.pairs == IDS:
        x_id, y_id = torch.arange(n, device=device) // 2, torch.arange(m, device=device) // 2
        x_id[15::16] = -1
        batch = batch._replace(x_id=x_id, y_id=y_id)
    for leaf in batch.leaves.values():
        leaf.requires_grad_(not case.forward)
    return batch


def train(loss: Loss, batch: Batch) -> Tensor:
    """One call forward and, where something learns, backward; returns the value."""
    value = loss(batch)
    if value.requires_grad:
        value.backward(batch.upstream(value))
    return value.detach()


def ours(backend: str | None = None, **options: Any) -> Loss:
    """The loss of this package, or its matrix of scores."""

    def loss(batch: Batch) -> Tensor:
        case = batch.case
        if case.is_matrix:
            return pairwise_score(batch.x, batch.y, score=case.score, backend=backend, **options)
        return pairwise_loss(
            batch.x, batch.y, score=case.score, objective=case.objective, scale=batch.scale,
            bias=0.0 if batch.bias is None else batch.bias, x_id=batch.x_id, y_id=batch.y_id,
            negatives_only=case.pairs == NEGATIVES, backend=backend, **options,
        )  # fmt: skip

    return loss
