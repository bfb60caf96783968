"""Matched rows: the raw custom ops and the autograd functions around them.

Forward keeps a number for each row of each part, the slope of its value by H; backward computes from it, and from the gradients
of the terms that came, the gradients of all levels at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..backends.chunked import matched as chunked
from ..pointwise.plan import places
from . import keep_nothing, refuse


class RowForm(NamedTuple):
    """rows: of each level; valid_at: where each part's flags start, -1 for none; parts: `Part` after `Part`; backend: "triton" or
    "chunked"; per_row: values of the parts' rows instead of the terms' means."""

    rows: list[int]
    valid_at: list[int]
    parts: list[float]
    backend: str
    per_row: bool


def _sum_dtype(t: Tensor) -> torch.dtype:
    return torch.float64 if t.dtype == torch.float64 else torch.float32


# the schemas in words: torch 2.6 cannot read lists of symbolic sizes from the annotations
@torch.library.custom_op(
    "prolap_kernels::matched_rows",
    mutates_args=(),
    schema="(Tensor mean, Tensor logvar, Tensor valid, SymInt[] rows, SymInt[] valid_at, float[] parts, str backend,"
    " bool per_row) -> (Tensor, Tensor, Tensor)",
)
def matched_rows_op(
    mean: Tensor, logvar: Tensor, valid: Tensor,
    rows: Sequence[int], valid_at: Sequence[int], parts: Sequence[float], backend: str, per_row: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """mean, logvar [rows of all levels, D], valid: flags, flat, then `RowForm`. Returns each row's value, saturated share and
    slope [3, parts, longest]; the terms' means [terms] and, [2, terms], their counts of rows and saturated shares, both of size 0
    if per_row."""
    where = places(parts, rows, valid_at)
    # autocast reaches inside custom ops
    with torch.autocast(mean.device.type, enabled=False):
        if backend == "triton":
            from ..backends.triton import matched as fused

            found = fused.matched_rows(mean, logvar, valid, rows, where)
            sums = None if per_row else fused.matched_sums(found, valid, rows, where, mean.shape[1])
        else:
            found = chunked.matched_rows(mean, logvar, valid, rows, where)
            sums = None if per_row else chunked.matched_sums(found, valid, where)
    return found, *(sums or (found.new_empty(0), found.new_empty(0)))


@matched_rows_op.register_fake
def _(
    mean: Tensor, logvar: Tensor, valid: Tensor,
    rows: Sequence[int], valid_at: Sequence[int], parts: Sequence[float], backend: str, per_row: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    where, dtype = places(parts, rows, valid_at), _sum_dtype(mean)
    terms = 1 + max(place.term for place in where)
    return (
        mean.new_empty(3, len(where), max(place.rows for place in where), dtype=dtype),
        mean.new_empty(0 if per_row else terms, dtype=dtype),
        mean.new_empty((0,) if per_row else (2, terms), dtype=dtype),
    )


@torch.library.custom_op(
    "prolap_kernels::matched_gradients",
    mutates_args=(),
    schema="(Tensor mean, Tensor logvar, Tensor found, Tensor shares, Tensor g, SymInt[] rows, SymInt[] valid_at,"
    " float[] parts, str backend, bool need_mean, bool need_logvar) -> (Tensor, Tensor)",
)
def matched_gradients_op(
    mean: Tensor, logvar: Tensor, found: Tensor, shares: Tensor, g: Tensor,
    rows: Sequence[int], valid_at: Sequence[int], parts: Sequence[float], backend: str,
    need_mean: bool, need_logvar: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What `matched_rows_op` took and gave, and the gradients g of the terms [terms], or of each row [parts, longest]. Returns
    the gradients by mean and logvar in their dtypes, size 0 where not needed."""
    where = places(parts, rows, valid_at)
    with torch.autocast(mean.device.type, enabled=False):
        if backend == "triton":
            from ..backends.triton import matched as fused

            return fused.matched_gradients(mean, logvar, found, shares, g, rows, where, need_mean, need_logvar)
        grads = chunked.matched_gradients(mean, logvar, found, shares, g, rows, where)
    d_mean, d_logvar = (t if need else t.new_empty(0) for t, need in zip(grads, (need_mean, need_logvar), strict=True))
    return d_mean, d_logvar


@matched_gradients_op.register_fake
def _(mean: Tensor, logvar: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    need_mean, need_logvar = rest[-2:]
    return mean.new_empty(mean.shape if need_mean else 0), logvar.new_empty(logvar.shape if need_logvar else 0)


class _Gradients(torch.autograd.Function):
    """`matched_gradients_op`, not to be differentiated."""

    @staticmethod
    def forward(
        mean: Tensor, logvar: Tensor, found: Tensor, shares: Tensor, g: Tensor, form: RowForm, need: tuple[bool, bool]
    ) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        out: tuple[Tensor, Tensor] = matched_gradients_op(mean, logvar, found, shares, g, *form[:4], *need)
        return out

    setup_context = staticmethod(keep_nothing)
    backward = staticmethod(refuse)


class MatchedRows(torch.autograd.Function):
    """mean, logvar, valid as in `matched_rows_op`, then its `RowForm` and need = (mean, logvar). Returns the terms' means
    [terms], or the rows' values [parts, longest] if per_row; what is saved for backward follows."""

    @staticmethod
    def forward(
        mean: Tensor, logvar: Tensor, valid: Tensor, form: RowForm, need: tuple[bool, bool]
    ) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        found, losses, shares = matched_rows_op(mean, logvar, valid, *form)
        return (found[0].clone() if form.per_row else losses), found, shares

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.form, ctx.need = inputs[3:]
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)  # zeros of what has no gradient would be launches
        ctx.save_for_backward(*inputs[:2], *output[1:])

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *unused: Any) -> tuple[Tensor | None, ...]:
        if g is None:
            return (None,) * 5
        grads = _Gradients.apply(*ctx.saved_tensors, g, ctx.form, ctx.need)
        return (*(grad if need else None for grad, need in zip(grads, ctx.need, strict=True)), None, None, None)
