"""The public losses of pairs: score x objective x pairs."""

from __future__ import annotations

from typing import Any, Literal, get_args, overload

import torch
from torch import Tensor

from . import reference
from .backends import PRECISIONS, pick_backend
from .backends.problem import PairOptions
from .checks import (
    as_flag,
    as_gaussian,
    as_number,
    as_scalar,
    check_group,
    check_ids,
    check_sides,
    choose,
    named_entry,
)
from .gaussian import Gaussian
from .objectives import NAMED, OBJECTIVES, Objective
from .ops import wants_grad
from .ops.pairs import Needs, pair_loss
from .pairs import PairStats, count_pairs, finish, resolve_ids
from .scores import Score, find_score

Reduction = Literal["rows", "pairs", "sum", "none"]
REDUCTIONS = dict.fromkeys(get_args(Reduction))


@overload
def pairwise_loss(x: Any, y: Any, *, stats: Literal[False] = False, **options: Any) -> Tensor: ...
@overload
def pairwise_loss(x: Any, y: Any, *, stats: Literal[True], **options: Any) -> tuple[Tensor, PairStats]: ...
def pairwise_loss(
    x: Gaussian | Tensor,
    y: Gaussian | Tensor,
    *,
    score: str | Score = "csd",
    objective: str | Objective = "sigmoid",
    scale: float | Tensor = 1.0,
    bias: float | Tensor = 0.0,
    x_id: Tensor | None = None,
    y_id: Tensor | None = None,
    negatives_only: bool = False,
    reduction: Reduction = "rows",
    stats: bool = False,
    precision: str = "ieee",
    group: Any = None,
    backend: str | None = None,
    **score_options: str,
) -> Tensor | tuple[Tensor, PairStats]:
    """Contrastive loss between all rows of x and all rows of y, logit_ij = scale * s(x_i, y_j) + bias.

        sigmoid: L = (1/n) sum_ij -log sigmoid(y_ij logit_ij), y_ij = +1 for equal ids, -1 for different ones
        softmax: L = (rows + columns)/2, a row's loss being -(1/|P|) sum_{j in P} log p_ij over its positives P

    Args:
        x, y: Gaussians [N, D] and [M, D] on one device with means of one dtype; plain tensors of means where the score needs no
            variance (`dot`). Normalise the means yourself.
        score: a name in `SCORES` or a `Score` of your own, higher is more alike; options of the named score follow as keywords
            (`convention`).
        objective: a name in `OBJECTIVES` or an `Objective` of your own (`pointwise_objective` makes one of a formula).
        scale, bias: floats or 0-d tensors, which learn if they require grad.
        x_id, y_id: integers [N], [M], both or neither. Equal: positive; different: negative; negative id on either side:
            the pair is left out. By default row i of x belongs to row i of y alone.
        negatives_only: leave out the positives (sigmoid only).
        reduction: "rows" divides by the rows of x that are not ignored (SigLIP), "pairs" by the counted pairs (PCME++), "sum"
            by nothing, "none" gives a loss per row of x. softmax is an average by itself and takes "rows" only.
        stats: also return `PairStats`, what people log, from the same pass.
        precision: of float32 matrix products on a GPU, "ieee" or "tf32" (10 bits of mantissa, several times faster); it overrides
            torch's setting. It has no effect on other dtypes or on a CPU.
        group: reserved for losses over several ranks; must be None in this version.
        backend: "chunked", "triton" or "reference"; by default the fastest that can.

    Returns:
        A 0-d tensor ([N] for "none"), or with `stats=True` the pair (loss, statistics). float64 for float64 inputs and float32
        otherwise; 0 with zero gradients when no pair counts. Differentiable once; `backend="reference"` twice.

    N x M exists only as a bounded block, N x M x D never. Elementwise scores (`inclusion`, `kl`, ...) are computed in float32 for
    means of 16 bits too, and take log-variances as they are.

    Errors: ValueError or TypeError naming the argument.
    """
    score = find_score(score, **score_options)
    own = isinstance(objective, Objective)
    objective = named_entry(objective, NAMED) if own else choose("objective", objective, OBJECTIVES)  # type: ignore[misc, arg-type]
    choose("precision", precision, PRECISIONS)
    as_flag("negatives_only", negatives_only)
    as_flag("stats", stats)
    x, y = as_gaussian("x", x, score.uses_logvar), as_gaussian("y", y, score.uses_logvar)
    check_sides(("x", "y"), x, y)
    check_ids(("x_id", "y_id"), (x_id, y_id), (len(x.mean), len(y.mean)))
    check_group(group)
    _check_reduction(objective, reduction, negatives_only, bias)
    backend = pick_backend(backend, x.mean.device, x.mean.dtype, score, objective)
    scale, bias = as_scalar("scale", scale, x.mean), as_scalar("bias", bias, x.mean)
    ids, ids_given = resolve_ids(x_id, y_id, len(x.mean), len(y.mean), x.mean.device), x_id is not None
    flags = negatives_only, ids_given, precision, stats
    options = PairOptions(score.name, objective.name, backend, *flags, need_x=False, need_y=False, need_sums=False)
    losses = _dense if backend == "reference" else _engine
    value, sums = losses((x, y), (scale, bias), ids, options, reduction == "none")
    value = _reduce(value, reduction, ids, options)
    if not stats:
        return value
    positives = count_pairs(*ids, False) - count_pairs(*ids, True)
    return value, finish(sums, 0 * positives if negatives_only else positives, count_pairs(*ids, True))


def _check_reduction(objective: Objective, reduction: str, negatives_only: bool, bias: float | Tensor) -> None:
    choose("reduction", reduction, REDUCTIONS)
    if not objective.averages:
        return
    name = objective.name
    if reduction != "rows":
        raise ValueError(f"reduction must be 'rows' for the objective {name!r}, which is an average, got {reduction!r}")
    if negatives_only:
        raise ValueError(f"negatives_only must be False for the objective {name!r}: it needs its positives")
    if isinstance(bias, Tensor) or as_number("bias", bias) != 0.0:
        raise ValueError(f"bias must be 0.0 for the objective {name!r}: it cancels in the normaliser")


def _reduce(value: Tensor, reduction: str, ids: tuple[Tensor, Tensor], options: PairOptions) -> Tensor:
    if options.objective.averages or reduction in ("sum", "none"):
        return value
    if reduction == "rows" and not options.ids_given:
        return value / max(len(ids[0]), 1)
    count = (ids[0] >= 0).sum() if reduction == "rows" else count_pairs(*ids, options.negatives_only)
    return value / count.clamp(min=1)


def _dense(
    sides: tuple[Gaussian, Gaussian], scalars: tuple[Tensor, Tensor], ids: tuple[Tensor, Tensor], options: PairOptions,
    per_row: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The loss and its statistics by the formulas."""
    if options.ids_given:  # 0 * NaN is NaN: padding must not reach any gradient
        sides = sides[0].keep(ids[0] >= 0), sides[1].keep(ids[1] >= 0)
    logit = scalars[0] * reference.score_matrix(options.score, *sides) + scalars[1]
    arguments = options.objective, logit, *ids, options.negatives_only
    value = reference.pair_loss(*arguments)
    return value if per_row else value.sum(), reference.pair_stats(*arguments) if options.stats else logit


def _engine(
    sides: tuple[Gaussian, Gaussian], scalars: tuple[Tensor, Tensor], ids: tuple[Tensor, Tensor], options: PairOptions,
    per_row: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The loss and its statistics by the engine of bilinear or of elementwise scores."""
    bilinear, uses_logvar = options.score.elementwise is None, options.score.uses_logvar
    x, y = (z._replace(mean=_as_autocast(z.mean)) for z in sides) if bilinear else sides
    by_logvar = (uses_logvar and wants_grad(z.logvar) for z in (x, y))
    needs = Needs(wants_grad(x.mean), next(by_logvar), wants_grad(y.mean), next(by_logvar), wants_grad(*scalars))
    return pair_loss((*x, *y, *scalars, *ids), options, needs, per_row)


def _as_autocast(mean: Tensor) -> Tensor:
    """The mean in autocast's dtype if that is on, as for any matrix product."""
    device = mean.device.type
    if mean.dtype != torch.float32 or not torch.is_autocast_enabled(device):
        return mean
    return mean.to(torch.get_autocast_dtype(device))


def ppcl_loss(
    x: Gaussian,
    y: Gaussian,
    scale: float | Tensor,
    bias: float | Tensor,
    *,
    x_id: Tensor | None = None,
    y_id: Tensor | None = None,
    group: Any = None,
    backend: str | None = None,
) -> Tensor:
    """Probabilistic pairwise contrastive loss: `pairwise_loss` with the score `csd` and the objective `sigmoid`.

        L = (1/n) sum_ij -log sigmoid(y_ij (scale * csd_ij + bias)),  csd_ij = mx_i.my_j - sum_d (vx_id + vy_jd)/2

    Source: ProLIP (arXiv 2410.18857), used by ProLAP (arXiv 2510.18423).
    """
    return pairwise_loss(x, y, scale=scale, bias=bias, x_id=x_id, y_id=y_id, group=group, backend=backend)


def mask_repulsive_loss(
    masked: Gaussian,
    others: Gaussian,
    scale: float | Tensor,
    bias: float | Tensor,
    *,
    masked_id: Tensor | None = None,
    other_id: Tensor | None = None,
    score: str | Score = "csd",
    group: Any = None,
    backend: str | None = None,
) -> Tensor:
    """PPCL's negative pairs alone: L = (1/n) sum_{ij different} -log sigmoid(-(scale * s_ij + bias)).

    masked: embeddings of masked inputs [N, D]; others: other samples' embeddings [M, D]; ids as in `pairwise_loss`, n the rows
    of `masked` that are not ignored. The paper names the loss without its formula: this one is our reading.

    The cheapest way to satisfy negatives alone is to widen, so the masked variance grows without end: bound logvar in the model.
    """
    uses_logvar = find_score(score).uses_logvar
    masked, others = as_gaussian("masked", masked, uses_logvar), as_gaussian("others", others, uses_logvar)
    check_sides(("masked", "others"), masked, others)
    check_ids(("masked_id", "other_id"), (masked_id, other_id), (len(masked.mean), len(others.mean)))
    return pairwise_loss(
        masked, others, score=score, scale=scale, bias=bias, x_id=masked_id, y_id=other_id, negatives_only=True,
        group=group, backend=backend,
    )  # fmt: skip


def infonce_loss(
    x: Gaussian | Tensor,
    y: Gaussian | Tensor,
    scale: float | Tensor,
    *,
    score: str | Score = "dot",
    x_id: Tensor | None = None,
    y_id: Tensor | None = None,
    group: Any = None,
    backend: str | None = None,
) -> Tensor:
    """Symmetric InfoNCE: `pairwise_loss` with the objective `softmax`; by default on inner products, as CLIP and CLAP."""
    return pairwise_loss(
        x, y, score=score, objective="softmax", scale=scale, x_id=x_id, y_id=y_id, group=group, backend=backend
    )
