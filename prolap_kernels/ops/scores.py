"""The matrix of an elementwise score: the raw custom ops and the autograd function around them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..backends import sums_over_dimensions
from ..backends.chunked import elementwise
from ..gaussian import Gaussian, widen
from ..scores import NAMED
from . import keep_nothing, refuse


@torch.library.custom_op("prolap_kernels::scores", mutates_args=())
def scores_op(mx: Tensor, lx: Tensor, my: Tensor, ly: Tensor, score_name: str, backend: str) -> Tensor:
    """s_ij [N, M]."""
    with torch.autocast(mx.device.type, enabled=False):
        return elementwise.matrix(sums_over_dimensions(backend), NAMED[score_name], Gaussian(mx, lx), Gaussian(my, ly))


@scores_op.register_fake
def _(mx: Tensor, lx: Tensor, my: Tensor, *rest: Any) -> Tensor:
    return mx.new_empty(mx.shape[0], my.shape[0], dtype=widen(mx).dtype)


@torch.library.custom_op("prolap_kernels::score_gradients", mutates_args=())
def score_gradients_op(
    g: Tensor, mx: Tensor, lx: Tensor, my: Tensor, ly: Tensor, score_name: str, backend: str, need_x: bool, need_y: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of sum_ij g_ij s_ij by (mean, logvar) of x and of y, size 0 where not needed."""
    sides, need = (Gaussian(mx, lx), Gaussian(my, ly)), (need_x, need_y)
    with torch.autocast(mx.device.type, enabled=False):
        a, b, c, d = elementwise.matrix_gradients(sums_over_dimensions(backend), NAMED[score_name], *sides, g, need)
    return a, b, c, d


@score_gradients_op.register_fake
def _(g: Tensor, mx: Tensor, lx: Tensor, my: Tensor, ly: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    need_x, need_y = rest[2:]
    needed = ((mx, need_x), (lx, need_x), (my, need_y), (ly, need_y))
    return tuple(t.new_empty(t.shape if need else 0, dtype=widen(mx).dtype) for t, need in needed)


class _Gradients(torch.autograd.Function):
    """Gradients of a matrix by the four inputs, without second derivatives."""

    @staticmethod
    def forward(
        g: Tensor, mx: Tensor, lx: Tensor, my: Tensor, ly: Tensor, score_name: str, backend: str,
        need: tuple[bool, bool],
    ) -> tuple[Tensor, ...]:  # type: ignore[override]  # fmt: skip
        grads = score_gradients_op(g, mx, lx, my, ly, score_name, backend, *need)
        return tuple(grad.to(value.dtype) for grad, value in zip(grads, (mx, lx, my, ly), strict=True))

    setup_context = staticmethod(keep_nothing)
    backward = staticmethod(refuse)


class ScoreMatrix(torch.autograd.Function):
    """Takes (mean, logvar) of x and of y, the score's name, the backend, need = (x, y). Returns s_ij [N, M]."""

    @staticmethod
    def forward(*args: Any) -> Any:  # type: ignore[override]
        return scores_op(*args[:6])

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.options = inputs[4:]
        ctx.save_for_backward(*inputs[:4])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        need = ctx.options[2]
        grads = _Gradients.apply(g, *ctx.saved_tensors, *ctx.options)
        return *(grad if need[k // 2] else None for k, grad in enumerate(grads)), None, None, None
