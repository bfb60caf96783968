"""Matched rows: the raw custom ops and the autograd functions around them.

Forward keeps three numbers for each row of each link, among them the gradient of its value by H. From these and the terms'
gradients, backward computes the gradients of all levels at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..backends.chunked import matched as chunked
from ..backends.links import VALUE, count_terms, unpack
from ..gaussian import widen
from . import keep_nothing, refuse


class MatchedCall(NamedTuple):
    """Options of the raw ops.

    rows: numbers of rows of the levels; links: from `links.pack`; backend: "triton" or "chunked"; per_row: return the values of
    the links' rows instead of the terms' means.
    """

    rows: list[int]
    links: list[float]
    backend: str
    per_row: bool


# written-out schemas: torch 2.6 cannot read lists of symbolic sizes from annotations
@torch.library.custom_op(
    "prolap_kernels::matched_rows",
    mutates_args=(),
    schema="(Tensor mean, Tensor logvar, Tensor valid, SymInt[] rows, float[] links, str backend, bool per_row)"
    " -> (Tensor, Tensor, Tensor)",
)
def matched_rows_op(
    mean: Tensor, logvar: Tensor, valid: Tensor,
    rows: Sequence[int], links: Sequence[float], backend: str, per_row: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Values of links and means of terms.

    mean, logvar: [rows of all levels, D], the levels one after another. valid: the flags, flat. Then `MatchedCall`.
    Returns results [3, links, longest]: `links.VALUE`, SATURATED_SHARE and GRADIENT of each row, zeros in rows that do not count;
    means [terms]; shares [2, terms]: the number of rows that count, at least 1, and the share of them that is saturated. The last
    two have size 0 if per_row.
    """
    read = unpack(links, rows, mean.shape[1])
    engine = _engine(backend)
    # autocast reaches inside custom ops
    with torch.autocast(mean.device.type, enabled=False):
        results = engine.matched_rows(mean, logvar, valid, rows, read)
        means = None if per_row else engine.matched_means(results, valid, rows, read)
    return results, *(means or (results.new_empty(0), results.new_empty(0)))


@matched_rows_op.register_fake
def _(
    mean: Tensor, logvar: Tensor, valid: Tensor,
    rows: Sequence[int], links: Sequence[float], backend: str, per_row: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    read, dtype = unpack(links, rows, 1), widen(mean).dtype
    terms = 0 if per_row else count_terms(read)
    return (
        mean.new_empty(3, len(read), max(link.rows for link in read), dtype=dtype),
        mean.new_empty(terms, dtype=dtype),
        mean.new_empty((0,) if per_row else (2, terms), dtype=dtype),
    )


@torch.library.custom_op(
    "prolap_kernels::matched_gradients",
    mutates_args=(),
    schema="(Tensor mean, Tensor logvar, Tensor results, Tensor shares, Tensor g, SymInt[] rows, float[] links,"
    " str backend, bool need_mean, bool need_logvar) -> (Tensor, Tensor)",
)
def matched_gradients_op(
    mean: Tensor, logvar: Tensor, results: Tensor, shares: Tensor, g: Tensor,
    rows: Sequence[int], links: Sequence[float], backend: str, need_mean: bool, need_logvar: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients by mean and logvar in their dtypes, of size 0 where not needed.

    mean, logvar, results, shares as in `matched_rows_op`; g: the loss's gradients by the terms' means [terms], or by the rows'
    values [links, longest].
    """
    read = unpack(links, rows, mean.shape[1])
    with torch.autocast(mean.device.type, enabled=False):
        grads: tuple[Tensor, Tensor] = _engine(backend).matched_gradients(
            mean, logvar, results, shares, g, rows, read, (need_mean, need_logvar)
        )
    return grads


@matched_gradients_op.register_fake
def _(mean: Tensor, logvar: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    need_mean, need_logvar = rest[-2:]
    return mean.new_empty(mean.shape if need_mean else 0), logvar.new_empty(logvar.shape if need_logvar else 0)


def _engine(backend: str) -> ModuleType:
    if backend == "triton":
        from ..backends.triton import matched

        return matched
    return chunked


class _Gradients(torch.autograd.Function):
    """`matched_gradients_op`, not to be differentiated."""

    @staticmethod
    def forward(
        mean: Tensor, logvar: Tensor, results: Tensor, shares: Tensor, g: Tensor, call: MatchedCall,
        need: tuple[bool, bool],
    ) -> Any:  # type: ignore[override]  # fmt: skip
        return matched_gradients_op(mean, logvar, results, shares, g, call.rows, call.links, call.backend, *need)

    setup_context = staticmethod(keep_nothing)
    backward = staticmethod(refuse)


class MatchedRows(torch.autograd.Function):
    """Takes mean, logvar, valid as `matched_rows_op` does, its `MatchedCall`, and whether mean and logvar need gradients.

    Returns the terms' means [terms], or the rows' values [links, longest] if per_row; then results and shares, for backward.
    """

    @staticmethod
    def forward(
        mean: Tensor, logvar: Tensor, valid: Tensor, call: MatchedCall, need: tuple[bool, bool]
    ) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        results, means, shares = matched_rows_op(mean, logvar, valid, *call)
        return (results[VALUE].clone() if call.per_row else means), results, shares

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.call, ctx.need = inputs[3:]
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)  # zeros for outputs without a gradient would cost launches
        ctx.save_for_backward(*inputs[:2], *output[1:])

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *unused: Any) -> tuple[Tensor | None, ...]:
        if g is None:
            return (None,) * 5
        grads = _Gradients.apply(*ctx.saved_tensors, g, ctx.call, ctx.need)
        return (*(grad if need else None for grad, need in zip(grads, ctx.need, strict=True)), None, None, None)
