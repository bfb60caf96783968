"""Losses of pairs: the raw custom op, which returns a loss together with its gradients, and the autograd function around it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..backends.chunked import pairs as chunked
from ..backends.problem import PairOptions, PairProblem
from ..objectives import OBJECTIVES
from . import Scaled, keep_nothing, refuse

SCALED = (True, True, True, True, False, False)


@torch.library.custom_op("prolap_kernels::pairs", mutates_args=())
def pairs_op(
    phi_x: Tensor, phi_y: Tensor, alpha: Tensor, beta: Tensor, scale: Tensor, bias: Tensor,
    x_id: Tensor, y_id: Tensor, row_weight: Tensor,
    objective: str, backend: str, negatives_only: bool, ids_given: bool, precision: str, score: str, stats: bool,
    need_x: bool, need_y: bool, need_sums: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """`PairProblem` and `PairOptions` in, `PairSums` out."""
    problem = PairProblem(phi_x, phi_y, alpha, beta, scale, bias, x_id, y_id, row_weight)
    flags = negatives_only, ids_given, precision, stats, need_x, need_y, need_sums
    options = PairOptions(objective, *flags, score, backend)
    # autocast reaches inside custom ops and would run float32 products in 16 bits
    with torch.autocast(phi_x.device.type, enabled=False):
        if backend == "triton" and not score:
            from ..backends.triton import sigmoid, softmax

            sums = sigmoid.pair_sums if objective == "sigmoid" else softmax.softmax_lift
            return sums(problem, options)
        return chunked.pair_sums(problem, options)


@pairs_op.register_fake
def _(phi_x: Tensor, phi_y: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    alpha, beta, scale, objective, tile = *rest[:3], rest[7], bool(rest[12])
    stats, need_x, need_y, need_sums = rest[13:]

    def empty(wanted: bool, *shape: int) -> Tensor:
        made: Tensor = scale.new_empty(shape if wanted else 0)
        return made

    n, m = phi_x.shape[0], phi_y.shape[0]
    return (
        empty(True, 1 if OBJECTIVES[objective].averages else n),
        empty(need_x, *phi_x.shape),
        empty(need_y, *phi_y.shape),
        empty(need_sums, n),
        empty(need_sums, m),
        empty(need_sums, n),
        empty(need_x and tile, *alpha.shape),
        empty(need_y and tile, *beta.shape),
        empty(stats, 4, n),
    )


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
                Scaled.apply(factor if scaled else g, grad, value) if want else None
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
