"""65,536 rows against float64: many blocks, long sums, every gradient."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from prolap_kernels import Gaussian, ppcl_loss
from tests.kernels.common import gaussian
from tests.tolerances import assert_as_exact_as, likely

ROWS, COLS, WIDTH, STRIP = 65536, 512, 16, 8192


def engine(mx: Tensor, lx: Tensor, my: Tensor, ly: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return ppcl_loss(Gaussian(mx, lx), Gaussian(my, ly), scale, bias, backend="chunked")


def naive(mx: Tensor, lx: Tensor, my: Tensor, ly: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """The literal formula in eager torch, a strip of rows at a time."""
    total = scale.new_zeros(())
    for i in range(0, len(mx), STRIP):
        score = mx[i : i + STRIP] @ my.T - 0.5 * lx[i : i + STRIP].exp().sum(1)[:, None] - 0.5 * ly.exp().sum(1)
        logit = scale * score + bias
        positive = torch.arange(i, i + len(logit))[:, None] == torch.arange(len(my))
        total = total - F.logsigmoid(torch.where(positive, logit, -logit)).sum()
    return total / len(mx)


def evaluate(loss: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    value = loss(*inputs)
    return [value.detach(), *torch.autograd.grad(value, inputs)]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_65536_rows(dtype: torch.dtype) -> None:
    """At most twice the error of eager torch, plus the rounding of a result.

    What eager torch may lack by luck: sums over dimensions and columns in any order, over rows pairwise, log2(rows) deep.
    """
    inputs = [*gaussian(ROWS, WIDTH, 1, dtype, -4.0), *gaussian(COLS, WIDTH, 2, dtype, -4.0)]
    inputs += [torch.tensor(10.0, requires_grad=True), torch.tensor(-10.0, requires_grad=True)]
    truth = evaluate(naive, [t.detach().double().requires_grad_() for t in inputs])
    terms = likely(WIDTH + COLS) + math.log2(ROWS)
    assert_as_exact_as(evaluate(naive, inputs), evaluate(engine, inputs), truth, terms=terms)
