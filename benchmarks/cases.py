"""What is measured: the losses of the registries at a size, and the same written out by others."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from prolap_kernels import OBJECTIVES, SCORES, Gaussian, pairwise_loss
from prolap_kernels.scores import LIFTS

SCALE, BIAS = 10.0, -10.0


class Case(NamedTuple):
    """loss(x, y) of one score and objective; `ours` first, then who it is measured beside."""

    name: str
    score: str
    contenders: dict[str, Callable[[Gaussian, Gaussian], Tensor]]


def inputs(n: int, m: int, d: int, device: str, dtype: torch.dtype) -> tuple[Gaussian, Gaussian]:
    """Unit means and log-variances around -4, leaves that require grad."""
    generator = torch.Generator().manual_seed(0)

    def side(rows: int) -> Gaussian:
        mean = F.normalize(torch.randn(rows, d, generator=generator), dim=-1)
        logvar = -4 + 0.5 * torch.randn(rows, d, generator=generator)
        return Gaussian(mean.to(device, dtype).requires_grad_(), logvar.to(device).requires_grad_())

    return side(n), side(m)


def _ours(score: str, objective: str) -> Callable[[Gaussian, Gaussian], Tensor]:
    bias = BIAS if objective == "sigmoid" else 0.0
    return lambda x, y: pairwise_loss(x, y, score=score, objective=objective, scale=SCALE, bias=bias)


def _literal(score: str, objective: str) -> Callable[[Gaussian, Gaussian], Tensor]:
    """N x M x D, as the formula is written and as public code for scores without a matrix product does it."""
    bias = BIAS if objective == "sigmoid" else 0.0
    return lambda x, y: pairwise_loss(
        x, y, score=score, objective=objective, scale=SCALE, bias=bias, backend="reference"
    )


def _eager(x: Gaussian, y: Gaussian) -> Tensor:
    """PPCL with a dense N x M matrix product and logsigmoid, as a careful user writes it in eager torch."""
    spread = x.logvar.exp().sum(1)[:, None] + y.logvar.exp().sum(1)[None, :]
    logit = SCALE * ((x.mean @ y.mean.T).float() - 0.5 * spread) + BIAS
    sign = 2 * torch.eye(len(logit), logit.shape[1], device=logit.device) - 1
    return -F.logsigmoid(sign * logit).sum() / len(logit)


def _products(x: Gaussian, y: Gaussian) -> Tensor:
    """No loss: the three matrix products alone, which nothing that uses the vendor's library can beat."""
    logit = x.mean.detach() @ y.mean.detach().T
    x.mean.grad, y.mean.grad = logit @ y.mean.detach(), logit.T @ x.mean.detach()
    return torch.zeros((), requires_grad=True)


def cases() -> dict[str, Case]:
    """Every lift with every objective; csd x sigmoid, the loss of ProLAP, beside everyone."""
    found = {}
    for score in LIFTS:
        for objective in OBJECTIVES:
            contenders = {"prolap_kernels": _ours(score.name, objective), "literal": _literal(score.name, objective)}
            if (score.name, objective) == ("csd", "sigmoid"):
                contenders |= {"eager": _eager, "products alone": _products}
            name = f"{score.name}-{objective}"
            found[name] = Case(name, score.name, contenders)
    assert {case.score for case in found.values()} <= set(SCORES)
    return found
