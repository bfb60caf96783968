"""Launches of the kernels of matched rows: inclusion links and bottlenecks, traces. No autograd here."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from ..pointwise.plan import MEAN, SUM, Part, Place, starts, terms
from . import tiles
from .blocks import aligned
from .kernels.half_trace import half_trace as half_trace_kernel
from .kernels.matched import matched_gradients as matched_gradients_kernel
from .kernels.matched import matched_rows as matched_rows_kernel
from .kernels.matched import matched_sums as matched_sums_kernel

FIELDS = len(Part._fields) + 2
"""Numbers of a part in the kernels' table."""


def matched_rows(mean: Tensor, logvar: Tensor, valid: Tensor, rows: Sequence[int], parts: Sequence[Place]) -> Tensor:
    """[3, parts, longest] float32: each row's value, saturated share and slope by its H; zeros where a row does not count.

    mean, logvar [sum of rows, D]: the levels one after another; valid: flags, flat.
    """
    width = mean.shape[1]
    longest = max(place.rows for place in parts)
    out = torch.empty(3, len(parts), longest, dtype=torch.float32, device=mean.device)
    if longest:
        form = tiles.MATCHED
        args = (*_operands(mean, logvar), _flags(valid), _table(parts, rows, width, mean.device), out)
        sizes = (len(parts), longest, width)
        constants = {"FIELDS": FIELDS, "ROWS": form.rows, "BLOCK_D": form.cols}
        tiles.launch(matched_rows_kernel, len(parts) * -(-longest // form.rows), (*args, *sizes), constants, form)
    return out


def matched_sums(
    found: Tensor, valid: Tensor, rows: Sequence[int], parts: Sequence[Place], width: int
) -> tuple[Tensor, Tensor]:
    """Of each term: the mean value [terms] over its rows that count; how many those are, at least 1, and their saturated share,
    [2, terms]. found: what `matched_rows` gave."""
    count = terms(parts)
    losses, shares = found.new_empty(count), found.new_empty(2, count)
    form = tiles.SUMS
    args = (found, _flags(valid), _table(parts, rows, width, found.device), losses, shares)
    sizes = (len(parts), count, found.shape[2])
    tiles.launch(matched_sums_kernel, count, (*args, *sizes), {"FIELDS": FIELDS, "BLOCK": form.cols}, form)
    return losses, shares


def matched_gradients(
    mean: Tensor, logvar: Tensor, found: Tensor, shares: Tensor, g: Tensor, rows: Sequence[int], parts: Sequence[Place],
    need_mean: bool, need_logvar: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients by mean and logvar in their dtypes, or size 0: of g [terms] times the terms' means, or of g [parts, longest]
    times the rows' values. found: what `matched_rows` gave, shares: what `matched_sums` did."""
    width = mean.shape[1]
    d_mean, d_logvar = (t.new_empty(t.shape if need else 0) for t, need in ((mean, need_mean), (logvar, need_logvar)))
    most = max(rows)
    if most and width and (need_mean or need_logvar):
        form = tiles.MATCHED_BACK
        table = _table(parts, rows, width, mean.device)
        args = (*_operands(mean, logvar), table, found, shares, g.float().contiguous(), d_mean, d_logvar)
        sizes = (len(parts), len(rows), found.shape[2], width, int(need_mean), int(need_logvar))
        constants = {"PER_ROW": g.dim() == 2, "FIELDS": FIELDS, "ROWS": form.rows, "BLOCK_D": form.cols}
        tiles.launch(matched_gradients_kernel, len(rows) * -(-most // form.rows), (*args, *sizes), constants, form)
    return d_mean, d_logvar


def _operands(mean: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
    return aligned(mean), aligned(logvar)


def _flags(valid: Tensor) -> Tensor:
    return valid.view(torch.uint8)


def _table(parts: Sequence[Place], rows: Sequence[int], width: int, device: torch.device) -> Tensor:
    numbers: list[float] = []
    for place in parts:
        kind, inner, outer, term, factor, *rest = place.part
        if kind == MEAN:
            kind, factor = SUM, factor / max(width, 1)
        numbers += [kind, inner, outer, place.rows, term, place.valid_at, factor, *rest]
    return _on_device((*numbers, *starts(rows)), device)


@functools.lru_cache(maxsize=256)
def _on_device(numbers: tuple[float, ...], device: torch.device) -> Tensor:
    """Copied once: the terms of a run are the same from step to step, and a copy makes the host wait."""
    return torch.tensor(numbers, dtype=torch.float64, device=device)


def half_trace(logvar: Tensor, need_grad: bool) -> tuple[Tensor, Tensor]:
    """-1/2 sum_d exp(logvar), half the trace of the covariance with the sign that `csd` gives it.

    logvar [N, D] floating point. Returns rows [N] and the gradient of rows.sum(), -1/2 exp(logvar) [N, D] or size 0, float32.
    """
    n, width = logvar.shape
    q = logvar if logvar.stride(1) == 1 else logvar.contiguous()
    rows = torch.empty(n, dtype=torch.float32, device=q.device)
    grad = rows.new_empty((n, width) if need_grad else 0)
    if n:
        form = tiles.TRACE
        args = (q, rows, grad, q.stride(0), n, width, int(need_grad))
        tiles.launch(half_trace_kernel, -(-n // form.rows), args, {"ROWS": form.rows, "BLOCK_D": form.cols}, form)
    return rows, grad
