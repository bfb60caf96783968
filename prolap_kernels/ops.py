"""The raw custom ops: one per engine, each returning losses together with their gradients. No autograd here."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .backends import chunked
from .backends.problem import PairOptions, PairProblem
from .objectives import OBJECTIVES


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
            from .backends import fused, fused_softmax

            sums = fused.pair_sums if objective == "sigmoid" else fused_softmax.softmax_lift
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
