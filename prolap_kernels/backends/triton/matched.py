"""Matched rows: all inclusion links and bottlenecks of a step, with a launch for values, one for means and one for gradients.

table [links * FIELDS + levels + 1], float64, which holds its integers exactly: the fields of every `Link`, then the first row of
each level. A pointer `link` points to a link's first field.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...scores.inclusion import matched_gradient, matched_value
from ..blocks import cdiv
from ..links import NONE, SUM, VIB, Link, count_terms, starts
from . import configs
from .elementwise import compiled
from .gemm import aligned
from .numerics import SATURATED, expm1_excess, softplus_sigmoid

FIELDS = tl.constexpr(len(Link._fields))
(
    KIND, INNER, OUTER, TERM, FACTOR, KAPPA, MEAN_SCALE, MOVES_MEAN, FLAGGED, LINK_ROWS, FLAGS_AT,
) = map(tl.constexpr, range(len(Link._fields)))  # fmt: skip
"""Positions of a link's fields, in the order of `Link`."""
KIND_SUM, KIND_NONE, KIND_VIB = tl.constexpr(SUM), tl.constexpr(NONE), tl.constexpr(VIB)


inclusion, inclusion_gradient = compiled(matched_value), compiled(matched_gradient)


@triton.jit
def integer(field):
    return tl.load(field).to(tl.int32)


@triton.jit
def number(field):
    return tl.load(field).to(tl.float32)


@triton.jit
def counted_rows(valid, link, row):
    """Which rows of a link count: those that both levels have and whose flag is set."""
    live = row < integer(link + LINK_ROWS)
    flags = tl.load(link + FLAGS_AT).to(tl.int64)
    flag = tl.load(valid + flags + row, mask=live & (flags >= 0), other=1).to(tl.int32) != 0
    return live & flag


@triton.jit
def level_line(table, link, level, links, row, width):
    """Offsets of a level's rows in the stacked levels, clamped to the link's own rows."""
    start = tl.load(table + links * FIELDS + level).to(tl.int64)
    return (start + tl.minimum(row, integer(link + LINK_ROWS) - 1))[:, None] * width


@triton.jit
def link_sums(mean, logvar, x, y, width, link, ROWS: tl.constexpr, BLOCK_D: tl.constexpr):
    """Sums over d of h; for the kind NONE of the dimensions' losses, and the number of saturated dimensions."""
    per_dimension = integer(link + KIND) == KIND_NONE
    factor = number(link + FACTOR)
    kappa = number(link + KAPPA)
    mean_scale = number(link + MEAN_SCALE)
    summed = tl.zeros((ROWS, BLOCK_D), dtype=tl.float32)
    saturated = tl.zeros((ROWS, BLOCK_D), dtype=tl.float32)
    for start in range(0, width, BLOCK_D):
        d = (start + tl.arange(0, BLOCK_D))[None, :]
        load = d < width
        mx = tl.load(mean + x + d, mask=load, other=0.0).to(tl.float32)
        lx = tl.load(logvar + x + d, mask=load, other=0.0).to(tl.float32)
        my = tl.load(mean + y + d, mask=load, other=0.0).to(tl.float32)
        ly = tl.load(logvar + y + d, mask=load, other=0.0).to(tl.float32)
        h = inclusion(mx, lx, my, ly, kappa, mean_scale)
        if per_dimension:
            h, steep = softplus_sigmoid(-factor * h)
            saturated += tl.where(load & (steep < SATURATED), 1.0, 0.0)
        summed += tl.where(load, h, 0.0)
    return tl.sum(summed, 1), tl.sum(saturated, 1)


@triton.jit
def vib_sums(mean, logvar, x, width, link, ROWS: tl.constexpr, BLOCK_D: tl.constexpr):
    """Sums over d of the bottleneck, 1/2 (m^2 + (e^q - 1 - q)) with q = factor * logvar."""
    factor = number(link + FACTOR)
    summed = tl.zeros((ROWS, BLOCK_D), dtype=tl.float32)
    for start in range(0, width, BLOCK_D):
        d = (start + tl.arange(0, BLOCK_D))[None, :]
        m = tl.load(mean + x + d, mask=d < width, other=0.0).to(tl.float32)
        q = factor * tl.load(logvar + x + d, mask=d < width, other=0.0).to(tl.float32)
        summed += tl.where(d < width, 0.5 * (m * m + expm1_excess(q)), 0.0)
    return tl.sum(summed, 1)


@triton.jit(do_not_specialize=["links", "longest"])
def matched_rows_kernel(
    mean, logvar, valid, table, out, links, longest, width, ROWS: tl.constexpr, BLOCK_D: tl.constexpr
):
    """out [3, links, longest]: value, saturated share and gradient by sum_d h (1 for the kind NONE) of each row.

    mean, logvar [rows of all levels, width]; valid: flags. Rows that do not count give exact zeros, whatever they hold.
    A program takes ROWS rows of one link, so that short links run side by side.
    """
    this = tl.program_id(0) % links
    row = tl.program_id(0) // links * ROWS + tl.arange(0, ROWS)
    link = table + this * FIELDS
    value = tl.zeros((ROWS,), dtype=tl.float32)
    saturated = tl.zeros((ROWS,), dtype=tl.float32)
    gradient = tl.zeros((ROWS,), dtype=tl.float32)
    if tl.program_id(0) // links * ROWS < integer(link + LINK_ROWS):
        kind = integer(link + KIND)
        x = level_line(table, link, integer(link + INNER), links, row, width)
        gradient += 1.0
        if kind == KIND_VIB:
            value = vib_sums(mean, logvar, x, width, link, ROWS, BLOCK_D) / width
        else:
            y = level_line(table, link, integer(link + OUTER), links, row, width)
            value, saturated = link_sums(mean, logvar, x, y, width, link, ROWS, BLOCK_D)
            if kind == KIND_SUM:
                factor = number(link + FACTOR)
                value, steep = softplus_sigmoid(-factor * value)
                gradient = -factor * steep
                saturated = tl.where(steep < SATURATED, 1.0, 0.0)
            if kind == KIND_NONE:
                value = value / width
                saturated = saturated / width
        counted = counted_rows(valid, link, row)
        value = tl.where(counted, value, 0.0)
        saturated = tl.where(counted, saturated, 0.0)
        gradient = tl.where(counted, gradient, 0.0)
    to = out + this.to(tl.int64) * longest + row
    plane = links.to(tl.int64) * longest
    tl.store(to, value, mask=row < longest)
    tl.store(to + plane, saturated, mask=row < longest)
    tl.store(to + 2 * plane, gradient, mask=row < longest)


@triton.jit(do_not_specialize=["links", "terms", "longest"])
def matched_means_kernel(results, valid, table, means, shares, links, terms, longest, BLOCK: tl.constexpr):
    """means [terms]: mean values over the counted rows of a term's links; shares [2, terms]: the number of these rows, at least
    1, and their saturated share.

    results: out of `matched_rows_kernel`. A program takes one term.
    """
    term = tl.program_id(0)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    saturated = tl.zeros((BLOCK,), dtype=tl.float32)
    count = tl.zeros((BLOCK,), dtype=tl.float32)
    for this in range(links):
        link = table + this * FIELDS
        if integer(link + TERM) == term:
            values = results + tl.cast(this, tl.int64) * longest
            shares_of_rows = values + tl.cast(links, tl.int64) * longest
            for start in range(0, integer(link + LINK_ROWS), BLOCK):
                row = start + tl.arange(0, BLOCK)
                counted = counted_rows(valid, link, row)
                total += tl.load(values + row, mask=counted, other=0.0)
                saturated += tl.load(shares_of_rows + row, mask=counted, other=0.0)
                count += tl.where(counted, 1.0, 0.0)
    divisor = tl.maximum(tl.sum(count, 0), 1.0)
    tl.store(means + term, tl.sum(total, 0) / divisor)
    tl.store(shares + term, divisor)
    tl.store(shares + terms + term, tl.sum(saturated, 0) / divisor)


@triton.jit(do_not_specialize=["links", "levels", "longest", "by_mean", "by_logvar"])
def matched_gradients_kernel(
    mean, logvar, table, results, shares, g, d_mean, d_logvar, links, levels, longest, width, by_mean, by_logvar,
    PER_ROW: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """d_mean if by_mean, d_logvar if by_logvar: gradients of the sum of g times the terms, in the shape and dtype of the inputs.

    g: of each term [terms], or of each row [links, longest] if PER_ROW; results, shares: outputs of the forward launches.
    A program owns ROWS rows of one level and sums over all links of that level. Since h(x in y) = -h(y in x), the derivative by
    the outer level is that by the inner one with its sign turned.
    """
    level = tl.program_id(0) % levels
    first = tl.program_id(0) // levels * ROWS
    begin = tl.load(table + links * FIELDS + level).to(tl.int64)
    end = tl.load(table + links * FIELDS + level + 1).to(tl.int64)
    row = first + tl.arange(0, ROWS)
    own = (begin + tl.minimum(row, (end - begin - 1).to(tl.int32)))[:, None] * width
    steps = tl.where(begin + first < end, width, 0)
    plane = 2 * tl.cast(links, tl.int64) * longest
    for start in range(0, steps, BLOCK_D):
        d = (start + tl.arange(0, BLOCK_D))[None, :]
        load = d < width
        m = tl.load(mean + own + d, mask=load, other=0.0).to(tl.float32)
        q = tl.load(logvar + own + d, mask=load, other=0.0).to(tl.float32)
        to_mean = tl.zeros((ROWS, BLOCK_D), dtype=tl.float32)
        to_logvar = tl.zeros((ROWS, BLOCK_D), dtype=tl.float32)
        for this in range(links):
            link = table + this * FIELDS
            inner = integer(link + INNER)
            outer = integer(link + OUTER)
            if ((inner == level) | (outer == level)) & (first < integer(link + LINK_ROWS)):
                kind = integer(link + KIND)
                factor = number(link + FACTOR)
                entry = tl.cast(this, tl.int64) * longest + row
                live = row < integer(link + LINK_ROWS)
                gradient = tl.load(results + plane + entry, mask=live, other=0.0)
                if PER_ROW:
                    upstream = tl.load(g + entry, mask=live, other=0.0)
                else:
                    term = integer(link + TERM)
                    upstream = tl.load(g + term) / tl.load(shares + term)
                # a row that does not count gives zeros, whatever the rows and g hold
                c = tl.where(gradient == 0.0, 0.0, upstream * gradient)[:, None]
                c = tl.broadcast_to(c, (ROWS, BLOCK_D))
                if kind == KIND_VIB:
                    d_m = m
                    d_q = 0.5 * factor * (expm1_excess(factor * q) + factor * q)
                    c = c / width
                else:
                    sign = tl.where(inner == level, 1.0, -1.0)
                    other = level_line(table, link, inner + outer - level, links, row, width)
                    other_m = tl.load(mean + other + d, mask=load, other=0.0).to(tl.float32)
                    other_q = tl.load(logvar + other + d, mask=load, other=0.0).to(tl.float32)
                    kappa = number(link + KAPPA)
                    mean_scale = number(link + MEAN_SCALE)
                    d_m, d_q, _ = inclusion_gradient(m, q, other_m, other_q, kappa, mean_scale)
                    c = sign * c
                    if kind == KIND_NONE:
                        h = sign * inclusion(m, q, other_m, other_q, kappa, mean_scale)
                        _, steep = softplus_sigmoid(-factor * h)
                        c = tl.where(c == 0.0, 0.0, -c * factor * steep / width)
                # a coefficient of 0 gives 0, even if the derivative is infinite or NaN
                frozen = integer(link + MOVES_MEAN) == 0
                to_mean += tl.where((c == 0.0) | frozen, 0.0, c * d_m)
                to_logvar += tl.where(c == 0.0, 0.0, c * d_q)
        keep = load & (row < (end - begin).to(tl.int32))[:, None]
        if by_mean:
            tl.store(d_mean + own + d, to_mean.to(d_mean.dtype.element_ty), mask=keep)
        if by_logvar:
            tl.store(d_logvar + own + d, to_logvar.to(d_logvar.dtype.element_ty), mask=keep)


def matched_rows(mean: Tensor, logvar: Tensor, valid: Tensor, rows: Sequence[int], links: Sequence[Link]) -> Tensor:
    """results of `ops.matched.matched_rows_op`, in one launch."""
    longest = max(link.rows for link in links)
    out = torch.empty(3, len(links), longest, dtype=torch.float32, device=mean.device)
    if longest:
        form = configs.MATCHED
        args = (aligned(mean), aligned(logvar), valid.view(torch.uint8), _table(links, rows, mean.device), out)
        sizes = (len(links), longest, mean.shape[1])
        programs = len(links) * cdiv(longest, form.rows)
        configs.launch(matched_rows_kernel, programs, (*args, *sizes), {"ROWS": form.rows, "BLOCK_D": form.cols}, form)
    return out


def matched_means(results: Tensor, valid: Tensor, rows: Sequence[int], links: Sequence[Link]) -> tuple[Tensor, Tensor]:
    """means and shares of `ops.matched.matched_rows_op`, in one launch."""
    terms = count_terms(links)
    means, shares = results.new_empty(terms), results.new_empty(2, terms)
    args = (results, valid.view(torch.uint8), _table(links, rows, results.device), means, shares)
    sizes = (len(links), terms, results.shape[2])
    configs.launch(matched_means_kernel, terms, (*args, *sizes), {"BLOCK": configs.SUMS.cols}, configs.SUMS)
    return means, shares


def matched_gradients(
    mean: Tensor, logvar: Tensor, results: Tensor, shares: Tensor, g: Tensor, rows: Sequence[int], links: Sequence[Link],
    need: tuple[bool, bool],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The gradients of `ops.matched.matched_gradients_op`, in one launch."""
    width = mean.shape[1]
    d_mean, d_logvar = (t.new_empty(t.shape if needed else 0) for t, needed in zip((mean, logvar), need, strict=True))
    most = max(rows)
    if most and width and any(need):
        form = configs.MATCHED_BACK
        table = _table(links, rows, mean.device)
        args = (aligned(mean), aligned(logvar), table, results, shares, g.float().contiguous(), d_mean, d_logvar)
        sizes = (len(links), len(rows), results.shape[2], width, *map(int, need))
        constants = {"PER_ROW": g.dim() == 2, "ROWS": form.rows, "BLOCK_D": form.cols}
        programs = len(rows) * cdiv(most, form.rows)
        configs.launch(matched_gradients_kernel, programs, (*args, *sizes), constants, form)
    return d_mean, d_logvar


def _table(links: Sequence[Link], rows: Sequence[int], device: torch.device) -> Tensor:
    """The links' fields, then the first row of each level and the end."""
    return _on_device((*(float(value) for link in links for value in link), *starts(rows)), device)


@functools.lru_cache(maxsize=256)
def _on_device(numbers: tuple[float, ...], device: torch.device) -> Tensor:
    """Copied once for all steps, which have the same terms: a copy makes the host wait."""
    return torch.tensor(numbers, dtype=torch.float64, device=device)
