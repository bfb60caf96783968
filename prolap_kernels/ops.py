"""The raw custom ops: one per engine, each returning losses together with their gradients. No autograd here."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .backends import chunked
from .backends.problem import PairOptions, PairProblem
from .gaussian import Gaussian
from .objectives import OBJECTIVES
from .pointwise import half_trace, inclusion, vib


@torch.library.custom_op("prolap_kernels::pairs", mutates_args=())
def pairs_op(
    phi_x: Tensor, phi_y: Tensor, alpha: Tensor, beta: Tensor, scale: Tensor, bias: Tensor,
    x_id: Tensor, y_id: Tensor, row_weight: Tensor,
    objective: str, backend: str, negatives_only: bool, ids_given: bool, precision: str, stats: bool,
    need_x: bool, need_y: bool, need_sums: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """`PairProblem` and `PairOptions` in, `PairSums` out."""
    problem = PairProblem(phi_x, phi_y, alpha, beta, scale, bias, x_id, y_id, row_weight)
    options = PairOptions(objective, negatives_only, ids_given, precision, stats, need_x, need_y, need_sums)
    # autocast reaches inside custom ops and would run float32 products in 16 bits
    with torch.autocast(phi_x.device.type, enabled=False):
        if backend == "triton":
            from .backends import fused, fused_softmax

            sums = fused.pair_sums if objective == "sigmoid" else fused_softmax.softmax_lift
            return sums(problem, options)
        return chunked.pair_sums(problem, options)


@pairs_op.register_fake
def _(phi_x: Tensor, phi_y: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    scale, objective, (stats, need_x, need_y, need_sums) = rest[2], rest[7], rest[12:]

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
        empty(stats, 4, n),
    )


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
