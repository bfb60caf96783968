"""Losses of pairs: the raw custom op, which returns a loss together with its gradients, and the autograd function around it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..backends import launcher
from ..backends.problem import PairOptions, PairProblem, PairSums
from ..gaussian import Gaussian
from ..scores import Factor, Score
from . import Scaled, keep_nothing, refuse, wants_grad

Flat = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
SCALED = (True, True, True, True, False, False, True, True)
"""Whether the saved gradients by phi_x, phi_y, alpha, beta, scale, bias, logvar_x, logvar_y wait for the factor `scale`."""
TENSORS = 10
"""Of a loss: phi_x, phi_y, alpha, beta, scale, bias, x_id, y_id, logvar_x, logvar_y."""


@torch.library.custom_op("prolap_kernels::pairs", mutates_args=())
def pairs_op(
    phi_x: Tensor, phi_y: Tensor, alpha: Tensor, beta: Tensor, scale: Tensor, bias: Tensor,
    x_id: Tensor, y_id: Tensor, row_weight: Tensor, logvar_x: Tensor | None, logvar_y: Tensor | None,
    score_name: str, objective_name: str, backend: str, negatives_only: bool, ids_given: bool, precision: str,
    stats: bool, need_x: bool, need_y: bool, need_sums: bool,
) -> Flat:  # fmt: skip
    """Takes a `PairProblem` and `PairOptions`, returns `PairSums`."""
    problem = PairProblem(phi_x, phi_y, alpha, beta, scale, bias, x_id, y_id, row_weight, logvar_x, logvar_y)
    flags = negatives_only, ids_given, precision, stats, need_x, need_y, need_sums
    options = PairOptions(score_name, objective_name, backend, *flags)
    sums = PairSums.empty(problem, options)
    # autocast reaches inside custom ops and would run float32 products in 16 bits
    with torch.autocast(phi_x.device.type, enabled=False):
        launcher(options)(problem, options, sums, True)
    return sums


@pairs_op.register_fake
def _(*flat: Any) -> Flat:
    count = len(PairProblem._fields)
    return PairSums.empty(PairProblem(*flat[:count]), PairOptions(*flat[count:]))


def _gradients(sums: PairSums) -> tuple[Tensor, ...]:
    """Gradients by the tensors that SCALED lists."""
    return (
        sums.dphi_x, sums.dphi_y, sums.row, sums.col, sums.dot.sum(), sums.row.sum(), sums.dlogvar_x, sums.dlogvar_y,
    )  # fmt: skip


class _Weighted(torch.autograd.Function):
    """The gradients of sum_i g_i L_i. Saved sums weigh all rows alike, so the pass runs again with g as weights."""

    @staticmethod
    def forward(
        g: Tensor, phi_x: Tensor, phi_y: Tensor, alpha: Tensor, beta: Tensor, scale: Tensor, bias: Tensor,
        x_id: Tensor, y_id: Tensor, logvar_x: Tensor | None, logvar_y: Tensor | None, options: PairOptions,
    ) -> tuple[Tensor, ...]:  # type: ignore[override]  # fmt: skip
        inputs = (phi_x, phi_y, alpha, beta, scale, bias)
        options = options._replace(stats=False)
        sums = PairSums(*pairs_op(*inputs, x_id, y_id, g.contiguous(), logvar_x, logvar_y, *options))
        return tuple(
            (grad * scale if scaled else grad).to(grad.dtype if value is None else value.dtype)
            for grad, scaled, value in zip(_gradients(sums), SCALED, (*inputs, logvar_x, logvar_y), strict=True)
        )

    setup_context = staticmethod(keep_nothing)
    backward = staticmethod(refuse)


class PairLoss(torch.autograd.Function):
    """Takes the TENSORS of a loss, its `PairOptions` and per_row. Returns the loss, [N] if per_row, else 0-d; then the gradients
    that backward reads, then the statistics."""

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, ...]:  # type: ignore[override]
        tensors, (options, per_row) = args[:TENSORS], args[TENSORS:]
        if per_row:  # gradients wait for the weights of the rows
            options = options._replace(need_x=False, need_y=False, need_sums=False)
        no_weight = tensors[4].new_empty(0)
        loss, *sums = pairs_op(*tensors[:8], no_weight, *tensors[8:], *options)
        return (loss if per_row else loss.sum(), *sums)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.options, ctx.per_row = inputs[TENSORS:]
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)  # else backward gets zeros as large as the gradients
        ctx.save_for_backward(*inputs[:TENSORS], *output[1:])

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *unused: Any) -> tuple[Tensor | None, ...]:
        if g is None:
            return (None,) * (TENSORS + 2)
        options: PairOptions = ctx.options
        tensors, sums = ctx.saved_tensors[:TENSORS], PairSums(g, *ctx.saved_tensors[TENSORS:])
        values = (*tensors[:6], *tensors[8:])
        offsets = [options.need_sums and t.numel() > 0 for t in tensors[2:4]]
        sides = options.need_x, options.need_y
        logvars = [need and t is not None for need, t in zip(sides, tensors[8:], strict=True)]
        needed = (*sides, *offsets, options.need_sums, options.need_sums, *logvars)
        if ctx.per_row:
            grads = _Weighted.apply(g, *tensors, options)
        else:
            factor = g * tensors[4]
            grads = tuple(
                Scaled.apply(factor if scaled else g, grad, value) if need else None
                for grad, scaled, value, need in zip(_gradients(sums), SCALED, values, needed, strict=True)
            )
        grads = [grad if need else None for grad, need in zip(grads, needed, strict=True)]
        return (*grads[:6], None, None, *grads[6:], None, None)


class Kept(torch.autograd.Function):
    """`value` itself; its gradient is zero in the rows that `ignored` [N] marks, whatever came back for them."""

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


@torch.library.custom_op("prolap_kernels::half_trace", mutates_args=())
def half_trace_op(logvar: Tensor, need_grad: bool) -> tuple[Tensor, Tensor]:
    """The fused kernel of `gemm.half_trace`: -1/2 sum_d exp(logvar) [N], and the gradient of its sum, [N, D] or size 0."""
    from ..backends.triton.gemm import half_trace

    with torch.autocast(logvar.device.type, enabled=False):
        return half_trace(logvar, need_grad)


@half_trace_op.register_fake
def _(logvar: Tensor, need_grad: bool) -> tuple[Tensor, Tensor]:
    grad = logvar.new_empty(logvar.shape if need_grad else 0, dtype=torch.float32)
    return logvar.new_empty(logvar.shape[0], dtype=torch.float32), grad


class HalfTrace(torch.autograd.Function):
    """`half_trace_op`: rows [N], then their gradient, for backward."""

    @staticmethod
    def forward(logvar: Tensor, need_grad: bool) -> Any:  # type: ignore[override]
        return half_trace_op(logvar, need_grad)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(inputs[0], output[1])

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, unused: Any) -> tuple[Tensor | None, None]:
        if g is None:
            return None, None
        value, grad = ctx.saved_tensors
        return Scaled.apply(g[:, None], grad, value), None


class FusedGaussian(Gaussian):
    """A Gaussian whose trace and its gradient take one launch: at small batches launches are the cost."""

    @property
    def half_trace(self) -> Tensor:
        rows: Tensor = HalfTrace.apply(self.logvar, wants_grad(self.logvar))[0]
        return rows


def factors(score: Score, x: Gaussian, y: Gaussian, fused: bool = False) -> tuple[Factor, Factor]:
    """Both sides as factors of a matrix product, their sums without autocast. fused: use the GPU's kernels."""
    assert score.factor_x is not None
    assert score.factor_y is not None
    if fused:
        x, y = FusedGaussian(*x), FusedGaussian(*y)
    with torch.autocast(x.mean.device.type, enabled=False):
        return score.factor_x(x), score.factor_y(y)
