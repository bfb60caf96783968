"""The autograd functions around the raw ops.

The forward pass already holds every gradient; backward only scales them, never in place, so it may run twice. It goes
through a second function that takes the inputs too and refuses to be differentiated: without it, a gradient penalty would
silently get a second derivative of zero.

The second functions have a fixed number of parameters: where no gradient flows, Dynamo tells by their number whether
`forward` wants a ctx.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .ops import pairs_op

SCALED = (True, True, True, True, False, False)
NO_SECOND = "prolap_kernels: second derivatives are not implemented; backend='reference' has them"


def wants_grad(*tensors: Tensor) -> bool:
    """Whether a gradient will be asked for; read before `apply`, inside which no tensor says so any more."""
    # isinstance, not `is None`: Dynamo answers the second wrongly for this call
    if torch.compiler.is_compiling() and not isinstance(torch._C._functorch.peek_interpreter_stack(), type(None)):
        # there requires_grad reads False for everything, and every gradient would silently be zero
        raise RuntimeError(
            "prolap_kernels: torch.func transforms inside torch.compile do not work; compile the loss alone"
        )
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def keep_nothing(ctx: Any, inputs: Any, output: Any) -> None:
    pass


def refuse(ctx: Any, *grads: Any) -> Any:
    raise RuntimeError(NO_SECOND)


class _Scaled(torch.autograd.Function):
    """g * grad in the dtype of `value`; the cast comes last, after g, or a loss scaler would come too late for float16."""

    @staticmethod
    def forward(g: Tensor, grad: Tensor, value: Tensor) -> Tensor:  # type: ignore[override]
        return (g * grad).to(value.dtype)

    setup_context = staticmethod(keep_nothing)
    backward = staticmethod(refuse)


class _Weighted(torch.autograd.Function):
    """The gradients of sum_i g_i L_i: saved sums weigh all rows alike, so the pass runs again with the weights that came."""

    @staticmethod
    def forward(
        g: Tensor, phi_x: Tensor, phi_y: Tensor, alpha: Tensor, beta: Tensor, scale: Tensor, bias: Tensor,
        x_id: Tensor, y_id: Tensor, how: tuple[Any, ...], need: tuple[bool, ...],
    ) -> tuple[Tensor, ...]:  # type: ignore[override]  # fmt: skip
        inputs = (phi_x, phi_y, alpha, beta, scale, bias)
        sums = pairs_op(*inputs, x_id, y_id, g.contiguous(), *how, False, *need)[1:8]
        return tuple(
            (grad * scale if scaled else grad).to(value.dtype)
            for grad, scaled, value in zip(_gradients(how, *sums), SCALED, inputs, strict=True)
        )

    setup_context = staticmethod(keep_nothing)
    backward = staticmethod(refuse)


def _gradients(how: tuple[Any, ...], *sums: Tensor) -> tuple[Tensor, ...]:
    """By phi_x, phi_y, alpha, beta, scale and bias; the first four (SCALED) still without the factor scale."""
    dphi_x, dphi_y, row, col, dot, dlogvar_x, dlogvar_y = sums[:7]
    alpha, beta = (dlogvar_x, dlogvar_y) if how[-1] else (row, col)
    return dphi_x, dphi_y, alpha, beta, dot.sum(), row.sum()


class PairLoss(torch.autograd.Function):
    """The tensors of `PairProblem` without the row weight, then how = (objective, backend, negatives_only, ids_given, precision,
    score: a tile's name or ""), stats, per_row and need = (x, y, sums). Returns the loss, [N] if per_row else 0-d; its
    gradients follow for saving, the statistics come last."""

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, ...]:  # type: ignore[override]
        inputs, (how, stats, per_row, need) = args[:8], args[8:]
        wanted = (False, False, False) if per_row else need
        loss, *sums = pairs_op(*inputs, inputs[4].new_empty(0), *how, stats, *wanted)
        return (loss if per_row else loss.sum(), *sums)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.options = inputs[8:]
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)  # of all that is kept, zeros as large as the gradients
        ctx.save_for_backward(*inputs[:8], *output[1:])

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *unused: Any) -> tuple[Tensor | None, ...]:
        if g is None:
            return (None,) * 12
        how, _, per_row, need = ctx.options
        inputs, sums = ctx.saved_tensors[:8], ctx.saved_tensors[8:]
        offsets = need[:2] if how[-1] else [need[2] and t.numel() > 0 for t in inputs[2:4]]
        wanted = (need[0], need[1], *offsets, need[2], need[2])
        if per_row:
            grads = _Weighted.apply(g, *inputs, how, need)
        else:
            factor = g * inputs[4]
            grads = tuple(
                _Scaled.apply(factor if scaled else g, grad, value) if want else None
                for grad, scaled, value, want in zip(_gradients(how, *sums), SCALED, inputs[:6], wanted, strict=True)
            )
        return (*(grad if want else None for grad, want in zip(grads, wanted, strict=True)), *[None] * 6)


class Kept(torch.autograd.Function):
    """`value` itself; gradients of the rows that `ignored` [N] marks are zeros, whatever those rows hold."""

    @staticmethod
    def forward(value: Tensor, ignored: Tensor) -> Tensor:  # type: ignore[override]
        return value.view_as(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (ignored,) = ctx.saved_tensors
        return g.masked_fill(ignored[:, None], 0), None
