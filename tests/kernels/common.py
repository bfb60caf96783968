"""Inputs and comparisons shared by the tests of the losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from prolap_kernels import OBJECTIVES, SCORES, Gaussian, pairwise_loss
from prolap_kernels.backends.problem import Launcher, PairOptions, PairProblem, PairSums

PAIRS = [(score, objective) for score in SCORES for objective in OBJECTIVES]
ID_CASES = {
    "diagonal": (None, None),
    "several positives": ([0, 0, 1, 2, 3], [0, 1, 1, 0]),
    "ignored": ([0, -1, 1, 2, -1], [-1, 0, 2, 9]),
    "no positive": ([0, 1, 2, 3, 4], [5, 6, 7, 8]),
    "all ignored": ([-1] * 5, [0, 1, 2, 3]),
}


def gaussian(n: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float64, logvar: float = -1.0) -> Gaussian:
    """Unit means and log-variances around `logvar`, both leaves that require grad."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.nn.functional.normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=-1)
    spread = logvar + 0.5 * torch.randn(n, d, generator=generator, dtype=torch.float64)
    wide = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
    return Gaussian(mean.to(dtype).requires_grad_(), spread.to(wide).requires_grad_())


def ids(case: str) -> tuple[Tensor | None, Tensor | None]:
    return tuple(None if side is None else torch.tensor(side) for side in ID_CASES[case])  # type: ignore[return-value]


def as_float64(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [t.detach().double().requires_grad_() for t in tensors]


def value_and_grads(loss: Callable[..., Tensor], tensors: Sequence[Tensor]) -> list[Tensor]:
    value = loss(*tensors)
    grads = torch.autograd.grad(value, tensors, allow_unused=True)
    return [value.detach(), *(torch.zeros_like(t) if g is None else g for t, g in zip(tensors, grads, strict=True))]


def pair_loss(score: str, objective: str, case: str = "diagonal", **options: object) -> Callable[..., Tensor]:
    """(mx, lx, my, ly, scale, bias) -> loss."""
    name, _, convention = score.partition("/")
    extra = {"convention": convention} if convention else {}
    x_id, y_id = ids(case)

    def loss(mx: Tensor, lx: Tensor, my: Tensor, ly: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        x, y = Gaussian(mx, lx), Gaussian(my, ly)
        shift = bias if objective == "sigmoid" else 0.0
        return pairwise_loss(
            x, y, score=name, objective=objective, scale=scale, bias=shift, x_id=x_id, y_id=y_id, **extra, **options
        )

    return loss


def pair_inputs(
    n: int = 5, m: int = 4, d: int = 3, dtype: torch.dtype = torch.float64, logvar: float = -1.0
) -> list[Tensor]:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    scale, bias = torch.tensor(2.0, dtype=wide), torch.tensor(-1.0, dtype=wide)
    x, y = gaussian(n, d, 1, dtype, logvar), gaussian(m, d, 2, dtype, logvar)
    return [*x, *y, scale.requires_grad_(), bias.requires_grad_()]


def pair_sums(add_pairs: Launcher, problem: PairProblem, options: PairOptions) -> PairSums:
    """What the block primitive of a backend writes into fresh sums."""
    sums = PairSums.empty(problem, options)
    add_pairs(problem, options, sums, True)
    return sums
