"""The autograd functions around the raw ops.

The forward pass already holds every gradient; backward only scales them, never in place, so it may run twice. It goes
through a second function that takes the inputs too and refuses to be differentiated: without it, a gradient penalty would
silently get a second derivative of zero.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .ops import pairs_op, rows_op

NO_SECOND = "prolap_kernels: second derivatives are not implemented; backend='reference' has them"


class _Final(torch.autograd.Function):
    """A function whose result cannot be differentiated again."""

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError(NO_SECOND)


class _PairGradients(_Final):
    @staticmethod
    def forward(g: Tensor, *args: Any) -> tuple[Tensor, ...]:  # type: ignore[override]
        inputs, sums, (how, per_row, need) = args[:8], args[8:13], args[13:]
        if per_row:  # the saved sums weigh all rows alike: run again with the weights that came
            sums, g = pairs_op(*inputs, g.contiguous(), *how, *need)[1:], g.new_ones(())
        phi_x, phi_y, alpha, beta, scale = inputs[:5]
        dphi_x, dphi_y, row, col, dot = sums
        # the cast comes last, after g, or a loss scaler would come too late for float16
        return (
            (g * dphi_x).to(phi_x.dtype),
            (g * dphi_y).to(phi_y.dtype),
            g * scale * row if alpha.numel() else torch.zeros_like(alpha),
            g * scale * col if beta.numel() else torch.zeros_like(beta),
            g * dot.sum(),
            g * row.sum(),
        )


class PairLoss(torch.autograd.Function):
    """Tensors of `PairProblem` without the row weight, then how = (objective, backend, negatives_only, ids_given), per_row and
    need = (dphi_x, dphi_y, sums). Returns the loss, [N] if per_row else 0-d; its gradients follow for saving."""

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, ...]:  # type: ignore[override]
        inputs, (how, per_row, need) = args[:8], args[8:]
        wanted = (False, False, False) if per_row else need
        loss, *sums = pairs_op(*inputs, inputs[4].new_empty(0), *how, *wanted)
        return (loss if per_row else loss.sum(), *sums)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.options = inputs[8:]
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*inputs[:8], *output[1:])

    @staticmethod
    def backward(ctx: Any, g: Tensor, *unused: Any) -> tuple[Tensor | None, ...]:
        how, per_row, need = ctx.options
        grads = _PairGradients.apply(g, *ctx.saved_tensors, how, per_row, need)
        need_x, need_y, need_sums = need
        wanted = (need_x, need_y, need_sums, need_sums, need_sums, need_sums)
        return (*(grad if want else None for grad, want in zip(grads, wanted, strict=True)), *[None] * 5)


class _RowGradients(_Final):
    @staticmethod
    def forward(g: Tensor, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        inputs, grads = tensors[:count], tensors[count:]
        return tuple((g[:, None] * grad).to(value.dtype) for value, grad in zip(inputs, grads, strict=True))


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
        return (None, None, *_RowGradients.apply(g, ctx.count, *ctx.saved_tensors))
