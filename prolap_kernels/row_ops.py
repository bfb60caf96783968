"""Matched rows: the raw custom op and the autograd function around it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .autograd import _Scaled
from .gaussian import Gaussian
from .pointwise import half_trace, inclusion, vib


# the schema in words: torch 2.6 cannot read list[Tensor] from the annotations
@torch.library.custom_op(
    "prolap_kernels::rows",
    mutates_args=(),
    schema="(Tensor[] tensors, Tensor weight, str kind, float scale, float kappa, float rho, str backend, bool need_grad)"
    " -> Tensor[]",
)
def rows_op(
    tensors: list[Tensor],
    weight: Tensor,
    kind: str,
    scale: float,
    kappa: float,
    rho: float,
    backend: str,
    need_grad: bool,
) -> list[Tensor]:
    """Matched rows. tensors: mean, logvar of each level in turn; kind: "sum", "mean", "none" (inclusion losses), "score",
    "vib", "vib/prolip", or "half_trace" (of one logvar alone). Returns rows [N], then the gradient of their sum by each
    of `tensors`."""
    run = _fused_rows if backend == "triton" else _plain_rows
    with torch.autocast(weight.device.type, enabled=False):
        return run(tensors, weight, kind, (scale, kappa, rho), need_grad)


def _levels(tensors: list[Tensor]) -> list[Gaussian]:
    return [Gaussian(*pair) for pair in zip(tensors[::2], tensors[1::2], strict=True)]


def _plain_rows(
    tensors: list[Tensor], weight: Tensor, kind: str, form: tuple[float, float, float], need_grad: bool
) -> list[Tensor]:
    if kind == "half_trace":
        rows, grads = half_trace.half_trace(tensors[0], need_grad)
    elif kind.startswith("vib"):
        rows, grads = vib.vib(_levels(tensors)[0], kind == "vib/prolip", need_grad)
    else:
        rows, grads = inclusion.inclusion_chain(_levels(tensors), weight, form[0], form[1:], kind, need_grad)
    return [rows, *grads]


def _fused_rows(
    tensors: list[Tensor], weight: Tensor, kind: str, form: tuple[float, float, float], need_grad: bool
) -> list[Tensor]:
    from .backends import fused_rows as fused

    if kind == "half_trace":
        return list(fused.half_trace(tensors[0], need_grad))
    levels = _levels(tensors)
    if kind.startswith("vib"):
        return list(fused.vib(*levels[0], kind == "vib/prolip", need_grad))
    how = ("sum", "score") if kind == "score" else (kind, "loss")
    means, logvars = [z.mean for z in levels], [z.logvar for z in levels]
    rows, dmeans, dlogvars = fused.inclusion_chain(means, logvars, weight, *form, *how, need_grad)
    return [rows, *(grad for pair in zip(dmeans, dlogvars, strict=True) for grad in pair)]


@rows_op.register_fake
def _(tensors: list[Tensor], weight: Tensor, *rest: Any) -> list[Tensor]:
    rows = weight.new_empty(tensors[0].shape[0])
    return [rows, *(weight.new_empty(t.shape if rest[-1] else 0) for t in tensors)]


class RowLoss(torch.autograd.Function):
    """(kind, scale, kappa, rho, backend, need_grad), weight, then the tensors of `rows_op`. Returns rows [N], then gradients."""

    @staticmethod
    def forward(form: tuple[Any, ...], weight: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return tuple(rows_op(list(tensors), weight, *form))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.count = len(inputs) - 2
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*inputs[2:], *output[1:])

    @staticmethod
    def backward(ctx: Any, g: Tensor, *unused: Any) -> tuple[Tensor | None, ...]:
        inputs, grads = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        return (
            None,
            None,
            *(_Scaled.apply(g[:, None], grad, value) for grad, value in zip(grads, inputs, strict=True)),
        )
