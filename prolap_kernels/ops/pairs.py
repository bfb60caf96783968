"""Losses of pairs: raw custom ops for the loss with its sums and for the gradients, and the autograd function around them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..backends import fused_gaussian, launcher
from ..backends.problem import PairOptions, PairProblem, PairSums
from ..gaussian import Gaussian
from ..scores import NAMED, Factor, Score
from ..scores.base import FactorGradient
from . import keep_nothing, refuse, runs_eagerly, runs_plainly, without_autocast

TENSORS = 8
"""Of a loss: mean_x, logvar_x, mean_y, logvar_y, scale, bias, x_id, y_id. The first six may have gradients."""


class FactorNeeds(NamedTuple):
    """Which parts of a factor need a gradient."""

    phi: bool
    offset: bool


def factor_needs(score: Score, mean: bool, logvar: bool) -> FactorNeeds:
    """What of a side's factor needs a gradient for those by its mean and its logvar; an elementwise score has no offset."""
    if score.elementwise is not None:
        return FactorNeeds(mean or logvar, False)
    return FactorNeeds(mean or (logvar and score.logvar_in_phi), logvar or (mean and score.mean_in_offset))


class Needs(NamedTuple):
    """Which gradients a loss needs."""

    mean_x: bool
    logvar_x: bool
    mean_y: bool
    logvar_y: bool
    scalars: bool

    def asked_of(self, options: PairOptions) -> PairOptions:
        """The options with the sums that these gradients take."""
        x, y = (factor_needs(options.score, *self[k : k + 2]) for k in (0, 2))
        return options._replace(need_x=x.phi, need_y=y.phi, need_sums=self.scalars or x.offset or y.offset)


def factors(score: Score, x: Gaussian, y: Gaussian) -> tuple[Factor, Factor]:
    """Both sides as factors of a matrix product, their sums without autocast."""
    assert score.factor_x is not None
    assert score.factor_y is not None
    with without_autocast(x.mean):
        return score.factor_x(x), score.factor_y(y)


def _pairs(
    mean_x: Tensor, logvar_x: Tensor, mean_y: Tensor, logvar_y: Tensor, scale: Tensor, bias: Tensor,
    x_id: Tensor, y_id: Tensor, row_weight: Tensor,
    score_name: str, objective_name: str, backend: str, negatives_only: bool, ids_given: bool, precision: str,
    stats: bool, need_x: bool, need_y: bool, need_sums: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Takes both sides, the scalars, ids, weights of the rows (size 0 for ones) and `PairOptions`; returns `PairSums`."""
    flags = negatives_only, ids_given, precision, stats, need_x, need_y, need_sums
    options = PairOptions(score_name, objective_name, backend, *flags)
    rest = scale, bias, x_id, y_id, row_weight
    with without_autocast(mean_x):
        problem = _problem(options, (Gaussian(mean_x, logvar_x), Gaussian(mean_y, logvar_y)), rest)
        sums = PairSums.empty(problem, options)
        launcher(options)(problem, options, sums, True)
    return sums


def _problem(options: PairOptions, sides: tuple[Gaussian, Gaussian], rest: tuple[Tensor, ...]) -> PairProblem:
    """rest: scale, bias, x_id, y_id, row_weight."""
    scale, none = rest[0], rest[0].new_empty(0)
    x, y = sides
    if options.score.elementwise is not None:
        return PairProblem(x.mean, y.mean, none, none, *rest, x.logvar, y.logvar)  # type: ignore[call-arg]
    fused = fused_gaussian(options.backend)
    if fused is not None:
        if (
            options.ids_given
        ):  # 0 * NaN is NaN: padding must not reach a product. The chunked engine cleans its blocks itself
            sides = (x.keep(rest[2] >= 0), y.keep(rest[3] >= 0))
        x, y = (fused(*side) for side in sides)
    left, right = factors(options.score, x, y)
    # logvar may be wider or narrower than the mean: offsets are summed with the scores
    alpha, beta = (none if side.offset is None else side.offset.to(scale.dtype) for side in (left, right))
    return PairProblem(left.phi, right.phi, alpha, beta, *rest)


pairs_op = torch.library.custom_op("prolap_kernels::pairs", _pairs, mutates_args=())


@pairs_op.register_fake
def _(*flat: Any) -> tuple[Tensor, ...]:
    options = PairOptions(*flat[TENSORS + 1 :])._replace(
        backend=""
    )  # the widths of factors are the same on every backend
    x, y = Gaussian(*flat[:2]), Gaussian(*flat[2:4])
    return PairSums.empty(_problem(options, (x, y), flat[4 : TENSORS + 1]), options)


def _pair_gradients(
    g: Tensor, mean_x: Tensor, logvar_x: Tensor, mean_y: Tensor, logvar_y: Tensor, scale: Tensor, x_id: Tensor, y_id: Tensor,
    dphi_x: Tensor, dphi_y: Tensor, row: Tensor, col: Tensor, dot: Tensor, dlogvar_x: Tensor, dlogvar_y: Tensor,
    score_name: str, backend: str, ids_given: bool,
    need_mean_x: bool, need_logvar_x: bool, need_mean_y: bool, need_logvar_y: bool, need_scalars: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of g L by mean_x, logvar_x, mean_y, logvar_y, scale, bias from the loss's sums; size 0 where not needed."""
    score, factor, fused = NAMED[score_name], g * scale, fused_gaussian(backend) or Gaussian
    x = fused(mean_x, logvar_x), x_id, (need_mean_x, need_logvar_x), (dphi_x, row, dlogvar_x), score.gradient_x
    y = fused(mean_y, logvar_y), y_id, (need_mean_y, need_logvar_y), (dphi_y, col, dlogvar_y), score.gradient_y
    grads: list[Tensor] = []
    with without_autocast(mean_x):
        for z, row_id, need, sums, gradient in (x, y):
            by_parts = _side_gradients(score, z, need, sums, factor, gradient)
            for value, grad, needed in zip(z, by_parts, need, strict=True):
                if not needed:
                    grads.append(value.new_empty(0))
                    continue
                grad = torch.zeros_like(value) if grad is None else grad.to(value.dtype)
                grads.append(grad.masked_fill_((row_id < 0)[:, None], 0) if ids_given else grad)
        scalars = [g * dot.sum(), g * row.sum()] if need_scalars else [g.new_empty(0), g.new_empty(0)]
    a, b, c, d = grads
    return a, b, c, d, scalars[0], scalars[1]


def _side_gradients(
    score: Score, z: Gaussian, need: tuple[bool, bool], sums: tuple[Tensor, ...], factor: Tensor,
    gradient: FactorGradient | None,
) -> tuple[Tensor | None, Tensor | None]:  # fmt: skip
    """factor times the gradients by mean and logvar of a side. sums: of it, by phi, by the offset, by logvar."""
    by_phi, by_offset, by_logvar = sums
    if not any(need):
        return None, None
    if gradient is None:
        return by_phi * factor, by_logvar * factor
    asked = factor_needs(score, *need)
    return gradient(z, by_phi * factor if asked.phi else None, by_offset * factor if asked.offset else None)


pair_gradients_op = torch.library.custom_op("prolap_kernels::pair_gradients", _pair_gradients, mutates_args=())


@pair_gradients_op.register_fake
def _(g: Tensor, *flat: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    needs = Needs(*flat[-len(Needs._fields) :])
    a, b, c, d = (t.new_empty(t.shape if need else 0) for t, need in zip(flat[:4], needs[:4], strict=True))
    return a, b, c, d, g.new_empty(() if needs.scalars else 0), g.new_empty(() if needs.scalars else 0)


def _gradients(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """g, the TENSORS of a loss, its `PairSums` without the loss, then `PairOptions`, `Needs`, per_row -> `pair_gradients_op`."""
    g, tensors, sums, (options, needs, per_row) = args[0], args[1 : 1 + TENSORS], args[1 + TENSORS : -3], args[-3:]
    plain = runs_plainly(g)
    if per_row:  # saved sums would weigh all rows alike: the pass runs again with g as weights
        options = needs.asked_of(options)._replace(stats=False)
        sums = (_pairs if plain else pairs_op)(*tensors, g.contiguous(), *options)[1:]  # type: ignore[call-arg]
        g = torch.ones_like(tensors[4])
    op = _pair_gradients if plain else pair_gradients_op
    constants = options.score_name, options.backend, options.ids_given
    grads: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
    grads = op(g, *tensors[:5], *tensors[6:], *sums[:-1], *constants, *needs)  # type: ignore[call-arg]
    return grads


class _Gradients(torch.autograd.Function):
    """`_gradients`, not to be differentiated."""

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # type: ignore[override]
        return _gradients(*args)

    setup_context = staticmethod(keep_nothing)
    backward = staticmethod(refuse)


class PairLoss(torch.autograd.Function):
    """Takes the TENSORS of a loss, `PairOptions`, `Needs`, per_row. Returns the loss, [N] if per_row, else 0-d; then the sums
    that backward reads, the statistics last."""

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, ...]:  # type: ignore[override]
        tensors, (options, needs, per_row) = args[:TENSORS], args[TENSORS:]
        if not per_row:  # else gradients wait for the weights of the rows
            options = needs.asked_of(options)
        op = _pairs if runs_plainly(tensors[0]) else pairs_op
        loss, *sums = op(*tensors, tensors[4].new_empty(0), *options)  # type: ignore[call-arg]
        return (loss if per_row else loss.sum(), *sums)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.constants = inputs[TENSORS:]
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)  # else backward gets zeros as large as the gradients
        ctx.save_for_backward(*inputs[:TENSORS], *output[1:])

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *unused: Any) -> tuple[Tensor | None, ...]:
        none = (None,) * (TENSORS + 3)
        if g is None:
            return none
        # a gradient that can be differentiated must refuse to be; where none can, a function would only cost time
        function = _Gradients.apply if torch.is_grad_enabled() else _gradients
        grads = function(g, *ctx.saved_tensors, *ctx.constants)
        needs: Needs = ctx.constants[1]
        needed = (*needs[:4], needs.scalars, needs.scalars)
        return (*(grad if need else None for grad, need in zip(grads, needed, strict=True)), *none[len(needed) :])


class _EagerPairLoss(torch.autograd.Function):
    """`PairLoss` without `setup_context`, for which torch would bind a signature at every call. Returns loss and statistics."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor]:
        output = PairLoss.forward(*args)
        loss, stats = output[0], output[-1]
        ctx.constants = args[TENSORS:]
        ctx.mark_non_differentiable(stats)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*args[:TENSORS], *output[1:])
        return loss, stats

    backward = staticmethod(PairLoss.backward)


def pair_loss(tensors: tuple[Tensor, ...], options: PairOptions, needs: Needs, per_row: bool) -> tuple[Tensor, Tensor]:
    """The loss of the TENSORS, [N] if per_row, else 0-d, and its statistics."""
    function = _EagerPairLoss if runs_eagerly() else PairLoss
    loss, *_, stats = function.apply(*tensors, options, needs, per_row)
    return loss, stats
