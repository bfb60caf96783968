"""What is measured: every lift score with every objective and kind of pairs, on inputs that look like a model in training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from prolap_kernels import OBJECTIVES, Gaussian, pairwise_loss
from prolap_kernels.scores import LIFTS, SCORES

START = {"dot": (10.0, -10.0), "csd": (10.0, -10.0), "csd_distance": (5.0, 0.0), "wasserstein2": (5.0, 0.0)}
"""Scale and bias at which training starts (SigLIP's), for distances the same logits: 10 csd - 10 = 5 csd_distance."""
PAIRS = {
    "diagonal": "row i of x belongs to row i of y",
    "ids": "two rows of x share an id with two of y, every 16th row of x is ignored",
    "negatives": "the pairs off the diagonal alone",
}


class Case(NamedTuple):
    """A loss: a score, an objective, a kind of pairs."""

    score: str
    objective: str
    pairs: str

    @property
    def name(self) -> str:
        return f"{self.score}-{self.objective}" + ("" if self.pairs == "diagonal" else f"-{self.pairs}")


class Batch(NamedTuple):
    """Inputs of a case; means, log-variances, scale and bias are leaves that learn. bias None: the objective has none."""

    case: Case
    x: Gaussian
    y: Gaussian
    scale: Tensor
    bias: Tensor | None
    x_id: Tensor | None
    y_id: Tensor | None

    @property
    def leaves(self) -> dict[str, Tensor]:
        found = {"x.mean": self.x.mean, "y.mean": self.y.mean}
        if SCORES[self.case.score].uses_logvar:
            found |= {"x.logvar": self.x.logvar, "y.logvar": self.y.logvar}
        return found | {"scale": self.scale} | ({} if self.bias is None else {"bias": self.bias})

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
        return self._replace(x=x, y=y, scale=wide(self.scale), bias=bias)

    def flops(self) -> int:
        """Of the three matrix products that no exact method avoids: scores, gradient by x, gradient by y."""
        width = 2 if self.case.score == "wasserstein2" else 1
        return 6 * len(self.x.mean) * self.y.mean.numel() * width


def cases() -> dict[str, Case]:
    """By name; `negatives` only where the objective can leave the positives out."""
    made = [
        Case(score.name, goal.name, pairs)
        for score in LIFTS
        for goal in OBJECTIVES.values()
        for pairs in PAIRS
        if pairs != "negatives" or not goal.averages
    ]
    return {case.name: case for case in made}


def make_batch(case: Case, shape: tuple[int, int, int], device: str, dtype: torch.dtype) -> Batch:
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
    scale, bias = (torch.tensor(value, device=device, dtype=exact) for value in START[case.score])
    batch = Batch(case, x, y, scale, None if OBJECTIVES[case.objective].averages else bias, None, None)
    if case.pairs == "ids":
        x_id, y_id = torch.arange(n, device=device) // 2, torch.arange(m, device=device) // 2
        x_id[15::16] = -1
        batch = batch._replace(x_id=x_id, y_id=y_id)
    for leaf in batch.leaves.values():
        leaf.requires_grad_()
    return batch


def ours(backend: str | None = None, **options: Any) -> Callable[[Batch], Tensor]:
    """The loss of this package."""

    def loss(batch: Batch) -> Tensor:
        case = batch.case
        return pairwise_loss(
            batch.x, batch.y, score=case.score, objective=case.objective, scale=batch.scale,
            bias=0.0 if batch.bias is None else batch.bias, x_id=batch.x_id, y_id=batch.y_id,
            negatives_only=case.pairs == "negatives", backend=backend, **options,
        )  # fmt: skip

    return loss
