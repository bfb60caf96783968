"""The matrix of a tile: the raw custom ops and the autograd function around them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..backends.chunked import elementwise
from ..gaussian import Gaussian
from . import Scaled, keep_nothing, refuse


@torch.library.custom_op("prolap_kernels::scores", mutates_args=())
def scores_op(mx: Tensor, lx: Tensor, my: Tensor, ly: Tensor, score: str, backend: str) -> Tensor:
    """s_ij [N, M] of the tile of this name."""
    with torch.autocast(mx.device.type, enabled=False):
        return elementwise.matrix(score, Gaussian(mx, lx), Gaussian(my, ly), backend)


@scores_op.register_fake
def _(mx: Tensor, lx: Tensor, my: Tensor, *rest: Any) -> Tensor:
    return mx.new_empty(mx.shape[0], my.shape[0], dtype=_sum_dtype(mx))


@torch.library.custom_op("prolap_kernels::slopes", mutates_args=())
def slopes_op(
    g: Tensor, mx: Tensor, lx: Tensor, my: Tensor, ly: Tensor, score: str, backend: str, need_x: bool, need_y: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """sum_ij g_ij ds_ij by (mean, logvar) of x and of y, size 0 where not needed."""
    with torch.autocast(mx.device.type, enabled=False):
        return elementwise.matrix_slopes(score, Gaussian(mx, lx), Gaussian(my, ly), g, (need_x, need_y), backend)


@slopes_op.register_fake
def _(g: Tensor, mx: Tensor, lx: Tensor, my: Tensor, ly: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    needed = ((mx, rest[2]), (lx, rest[2]), (my, rest[3]), (ly, rest[3]))
    return tuple(t.new_empty(t.shape if wanted else 0, dtype=_sum_dtype(mx)) for t, wanted in needed)


def _sum_dtype(t: Tensor) -> torch.dtype:
    return torch.float64 if t.dtype == torch.float64 else torch.float32


class _Slopes(torch.autograd.Function):
    """Gradients of a matrix by the four inputs, without second derivatives."""

    @staticmethod
    def forward(
        g: Tensor, mx: Tensor, lx: Tensor, my: Tensor, ly: Tensor, score: str, backend: str, need: tuple[bool, bool]
    ) -> tuple[Tensor, ...]:  # type: ignore[override]
        grads = slopes_op(g, mx, lx, my, ly, score, backend, *need)
        return tuple(grad.to(value.dtype) for grad, value in zip(grads, (mx, lx, my, ly), strict=True))

    setup_context = staticmethod(keep_nothing)
    backward = staticmethod(refuse)


class TileMatrix(torch.autograd.Function):
    """(mean, logvar) of x and of y, then the tile's name, the backend and need = (x, y). Returns s_ij [N, M]."""

    @staticmethod
    def forward(*args: Any) -> Tensor:  # type: ignore[override]
        matrix: Tensor = scores_op(*args[:6])
        return matrix

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.options = inputs[4:]
        ctx.save_for_backward(*inputs[:4])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        need = ctx.options[2]
        grads = _Slopes.apply(g, *ctx.saved_tensors, *ctx.options)
        return *(grad if need[k // 2] else None for k, grad in enumerate(grads)), None, None, None


@torch.library.custom_op("prolap_kernels::half_trace", mutates_args=())
def half_trace_op(logvar: Tensor, backend: str, need_grad: bool) -> tuple[Tensor, Tensor]:
    """-1/2 sum_d exp(logvar), rows [N], and the gradient of their sum, [N, D] or size 0."""
    with torch.autocast(logvar.device.type, enabled=False):
        if backend == "triton":
            from ..backends.triton import elementwise as fused

            return fused.half_trace(logvar, need_grad)
        return elementwise.half_trace(logvar, need_grad)


@half_trace_op.register_fake
def _(logvar: Tensor, backend: str, need_grad: bool) -> tuple[Tensor, Tensor]:
    dtype = _sum_dtype(logvar)
    grad = logvar.new_empty(logvar.shape if need_grad else 0, dtype=dtype)
    return logvar.new_empty(logvar.shape[0], dtype=dtype), grad


class HalfTrace(torch.autograd.Function):
    """`half_trace_op`: rows [N], then their gradient for saving."""

    @staticmethod
    def forward(logvar: Tensor, backend: str, need_grad: bool) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        out: tuple[Tensor, Tensor] = half_trace_op(logvar, backend, need_grad)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(inputs[0], output[1])

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, unused: Any) -> tuple[Tensor | None, None, None]:
        if g is None:
            return None, None, None
        value, grad = ctx.saved_tensors
        return Scaled.apply(g[:, None], grad, value), None, None
