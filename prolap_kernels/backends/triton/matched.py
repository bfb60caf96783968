"""Matched rows: every inclusion link and bottleneck of a step, values in one launch, their means in one, gradients in one.

table [parts * FIELDS + levels + 1] float64, exact for its integers. A part's fields are kind, inner, outer (levels), rows, term,
valid_at, factor, kappa, rho, moves_mean (`pointwise.plan`); the rows at which levels start follow the last part.
Kinds: 0 -log sigmoid(factor * sum_d h_d), 2 sum_d -log sigmoid(factor * h_d) / width, 3 sum_d h_d, 4 the bottleneck.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...pointwise.plan import MEAN, SUM, Part, Place, starts, terms
from ..blocks import cdiv
from . import configs
from .gemm import aligned
from .numerics import atanh_third, exp_reduced, expm1_excess, one_minus_exp_neg, softplus_sigmoid


@triton.jit
def inclusion(mx, lx, my, ly, kappa, rho):
    """h(x in y) of one dimension, antisymmetric to the last bit.

    t = ly - lx, u = e^-|t|, em = 1 - u, z = (mx - my) e^(-max/2), P = (1+2u)(2+u):
    h = sign(t) * (kappa |t| - atanh(em / (3 (1+u))) + rho z^2 em / P)
    since log((1+2u)/(2+u)) = -2 atanh(em / (3(1+u))): its argument is below 1/3, so a short series needs no logarithm.
    """
    t = ly - lx
    a = tl.abs(t)
    u, em = one_minus_exp_neg(a)
    half_log = atanh_third(em / (3.0 + 3.0 * u))
    z = (mx - my) * exp_reduced(-0.5 * tl.where(t < 0.0, lx, ly))
    # em first: at equal variances the term is 0 even where z^2 overflows.
    h = kappa * a - half_log + rho * ((z * em) * z / ((1.0 + 2.0 * u) * (2.0 + u)))
    return tl.where(t < 0.0, -h, h)


@triton.jit
def inclusion_gradient(mx, lx, my, ly, kappa, rho):
    """(dh/dmx, dh/dlx); those by y are the same with x and y exchanged and the sign turned.

    With A = z^2 and P as above, the quadratic term sign(t) A (1-u)/P has the derivatives
    -sign(t) A u (7 + 4u - 2u^2) / P^2 by the smaller log-variance, sign(t) A (-2 + 4u + 7u^2) / P^2 by the larger.
    """
    t = ly - lx
    below = t < 0.0
    u, em = one_minus_exp_neg(tl.abs(t))
    inverse = 1.0 / ((1.0 + 2.0 * u) * (2.0 + u))
    root = exp_reduced(-0.5 * tl.where(below, lx, ly))
    z = (mx - my) * root
    signed = tl.where(below, -rho, rho) * inverse
    shape = tl.where(below, u * (4.0 + 7.0 * u) - 2.0, -(u * (7.0 + u * (4.0 - 2.0 * u))))
    d_mx = (2.0 * signed * em * z) * root
    d_lx = (signed * inverse * z * shape) * z - (kappa - 1.5 * u * inverse)
    return d_mx, d_lx


SATURATED = tl.constexpr(1e-3)


@triton.jit
def integer(at):
    return tl.load(at).to(tl.int32)


@triton.jit
def counted_rows(valid, at, row):
    """Which rows of a part count: those that both levels have and whose flag is set. at: the part's place in the table."""
    live = row < integer(at + 3)
    flags = tl.load(at + 5).to(tl.int64)
    wanted = tl.load(valid + flags + row, mask=live & (flags >= 0), other=1).to(tl.int32) != 0
    return live & wanted


@triton.jit
def level_line(table, at, level, parts, row, width, FIELDS: tl.constexpr):
    """Offsets of a level's rows in the stacked levels, clamped to the part's own rows."""
    start = tl.load(table + parts * FIELDS + level).to(tl.int64)
    return (start + tl.minimum(row, integer(at + 3) - 1))[:, None] * width


@triton.jit
def link_sums(mean, logvar, x, y, width, at, ROWS: tl.constexpr, BLOCK_D: tl.constexpr):
    """Sums over d of a link: of h, or for kind 2 of its losses; and of the dimensions that are saturated, for kind 2 alone."""
    per_dimension = integer(at) == 2
    factor = tl.load(at + 6).to(tl.float32)
    kappa = tl.load(at + 7).to(tl.float32)
    rho = tl.load(at + 8).to(tl.float32)
    summed = tl.zeros((ROWS, BLOCK_D), dtype=tl.float32)
    flat = tl.zeros((ROWS, BLOCK_D), dtype=tl.float32)
    for start in range(0, width, BLOCK_D):
        d = (start + tl.arange(0, BLOCK_D))[None, :]
        load = d < width
        mx = tl.load(mean + x + d, mask=load, other=0.0).to(tl.float32)
        lx = tl.load(logvar + x + d, mask=load, other=0.0).to(tl.float32)
        my = tl.load(mean + y + d, mask=load, other=0.0).to(tl.float32)
        ly = tl.load(logvar + y + d, mask=load, other=0.0).to(tl.float32)
        h = inclusion(mx, lx, my, ly, kappa, rho)
        if per_dimension:
            h, slope = softplus_sigmoid(-factor * h)
            flat += tl.where(load & (slope < SATURATED), 1.0, 0.0)
        summed += tl.where(load, h, 0.0)
    return tl.sum(summed, 1), tl.sum(flat, 1)


@triton.jit
def vib_sums(mean, logvar, x, width, at, ROWS: tl.constexpr, BLOCK_D: tl.constexpr):
    """Sums over d of the bottleneck, 1/2 (mu^2 + (e^q - 1 - q)) with q = share * logvar."""
    share = tl.load(at + 6).to(tl.float32)
    summed = tl.zeros((ROWS, BLOCK_D), dtype=tl.float32)
    for start in range(0, width, BLOCK_D):
        d = (start + tl.arange(0, BLOCK_D))[None, :]
        mu = tl.load(mean + x + d, mask=d < width, other=0.0).to(tl.float32)
        q = share * tl.load(logvar + x + d, mask=d < width, other=0.0).to(tl.float32)
        summed += tl.where(d < width, 0.5 * (mu * mu + expm1_excess(q)), 0.0)
    return tl.sum(summed, 1)


@triton.jit(do_not_specialize=["parts", "longest"])
def matched_rows_kernel(
    mean, logvar, valid, table, out, parts, longest, width,
    FIELDS: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """out [3, parts, longest]: each row's value, share that is saturated, slope by sum_d h (1 where that is per dimension).

    mean, logvar [rows of all levels, width]; valid: flags. Rows that do not count are exact zeros, whatever they hold.
    A program takes ROWS rows of one part, so that the links of few rows run side by side.
    """
    part = tl.program_id(0) % parts
    row = tl.program_id(0) // parts * ROWS + tl.arange(0, ROWS)
    at = table + part * FIELDS
    value = tl.zeros((ROWS,), dtype=tl.float32)
    flat = tl.zeros((ROWS,), dtype=tl.float32)
    slope = tl.zeros((ROWS,), dtype=tl.float32)
    if tl.program_id(0) // parts * ROWS < integer(at + 3):
        kind = integer(at)
        x = level_line(table, at, integer(at + 1), parts, row, width, FIELDS)
        slope += 1.0
        if kind == 4:
            value = vib_sums(mean, logvar, x, width, at, ROWS, BLOCK_D) / width
        else:
            y = level_line(table, at, integer(at + 2), parts, row, width, FIELDS)
            value, flat = link_sums(mean, logvar, x, y, width, at, ROWS, BLOCK_D)
            if kind == 0:
                factor = tl.load(at + 6).to(tl.float32)
                value, steep = softplus_sigmoid(-factor * value)
                slope = -factor * steep
                flat = tl.where(steep < SATURATED, 1.0, 0.0)
            if kind == 2:
                value = value / width
                flat = flat / width
        counted = counted_rows(valid, at, row)
        value = tl.where(counted, value, 0.0)
        flat = tl.where(counted, flat, 0.0)
        slope = tl.where(counted, slope, 0.0)
    to = out + part.to(tl.int64) * longest + row
    plane = parts.to(tl.int64) * longest
    tl.store(to, value, mask=row < longest)
    tl.store(to + plane, flat, mask=row < longest)
    tl.store(to + 2 * plane, slope, mask=row < longest)


@triton.jit(do_not_specialize=["parts", "terms", "longest"])
def matched_sums_kernel(
    rows, valid, table, losses, shares, parts, terms, longest, FIELDS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """losses [terms]: mean of the values over the counted rows of a term's parts; shares [2, terms]: how many of those rows
    there are, at least 1, and what share of them is saturated.

    rows: what `matched_rows` left. A program takes one term.
    """
    term = tl.program_id(0)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    flat = tl.zeros((BLOCK,), dtype=tl.float32)
    count = tl.zeros((BLOCK,), dtype=tl.float32)
    for part in range(parts):
        at = table + part * FIELDS
        if integer(at + 4) == term:
            here = rows + tl.cast(part, tl.int64) * longest
            for start in range(0, integer(at + 3), BLOCK):
                row = start + tl.arange(0, BLOCK)
                counted = counted_rows(valid, at, row)
                total += tl.load(here + row, mask=counted, other=0.0)
                flat += tl.load(here + tl.cast(parts, tl.int64) * longest + row, mask=counted, other=0.0)
                count += tl.where(counted, 1.0, 0.0)
    divisor = tl.maximum(tl.sum(count, 0), 1.0)
    tl.store(losses + term, tl.sum(total, 0) / divisor)
    tl.store(shares + term, divisor)
    tl.store(shares + terms + term, tl.sum(flat, 0) / divisor)


@triton.jit(do_not_specialize=["parts", "levels", "longest", "by_mean", "by_logvar"])
def matched_gradients_kernel(
    mean, logvar, table, rows, shares, g, d_mean, d_logvar, parts, levels, longest, width, by_mean, by_logvar,
    PER_ROW: tl.constexpr, FIELDS: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """d_mean, d_logvar, as mean and logvar: the gradient of the sum of g times the terms, where by_mean, by_logvar.

    g: of each term [terms], or of each row [parts, longest] if PER_ROW; rows, shares: what the forward launches left.
    A program owns ROWS rows of one level and adds up what all its parts give. Since h(x in y) = -h(y in x), the derivative by the
    outer level is that of the inner one with the sign turned.
    """
    level = tl.program_id(0) % levels
    first = tl.program_id(0) // levels * ROWS
    begin = tl.load(table + parts * FIELDS + level).to(tl.int64)
    end = tl.load(table + parts * FIELDS + level + 1).to(tl.int64)
    row = first + tl.arange(0, ROWS)
    own = (begin + tl.minimum(row, (end - begin - 1).to(tl.int32)))[:, None] * width
    steps = tl.where(begin + first < end, width, 0)
    plane = 2 * tl.cast(parts, tl.int64) * longest
    for start in range(0, steps, BLOCK_D):
        d = (start + tl.arange(0, BLOCK_D))[None, :]
        load = d < width
        m = tl.load(mean + own + d, mask=load, other=0.0).to(tl.float32)
        q = tl.load(logvar + own + d, mask=load, other=0.0).to(tl.float32)
        to_mean = tl.zeros((ROWS, BLOCK_D), dtype=tl.float32)
        to_logvar = tl.zeros((ROWS, BLOCK_D), dtype=tl.float32)
        for part in range(parts):
            at = table + part * FIELDS
            inner = integer(at + 1)
            outer = integer(at + 2)
            if ((inner == level) | (outer == level)) & (first < integer(at + 3)):
                kind = integer(at)
                factor = tl.load(at + 6).to(tl.float32)
                place = tl.cast(part, tl.int64) * longest + row
                live = row < integer(at + 3)
                slope = tl.load(rows + plane + place, mask=live, other=0.0)
                if PER_ROW:
                    upstream = tl.load(g + place, mask=live, other=0.0)
                else:
                    term = integer(at + 4)
                    upstream = tl.load(g + term) / tl.load(shares + term)
                # A row that does not count gives zeros, whatever the rows and g hold.
                c = tl.where(slope == 0.0, 0.0, upstream * slope)[:, None]
                c = tl.broadcast_to(c, (ROWS, BLOCK_D))
                if kind == 4:
                    d_m = m
                    d_q = 0.5 * factor * (expm1_excess(factor * q) + factor * q)
                    c = c / width
                else:
                    sign = tl.where(inner == level, 1.0, -1.0)
                    other = level_line(table, at, inner + outer - level, parts, row, width, FIELDS)
                    their_m = tl.load(mean + other + d, mask=load, other=0.0).to(tl.float32)
                    their_q = tl.load(logvar + other + d, mask=load, other=0.0).to(tl.float32)
                    kappa = tl.load(at + 7).to(tl.float32)
                    rho = tl.load(at + 8).to(tl.float32)
                    d_m, d_q = inclusion_gradient(m, q, their_m, their_q, kappa, rho)
                    c = sign * c
                    if kind == 2:
                        h = sign * inclusion(m, q, their_m, their_q, kappa, rho)
                        _, steep = softplus_sigmoid(-factor * h)
                        c = tl.where(c == 0.0, 0.0, -c * factor * steep / width)
                # A vanished coefficient wins over an infinite derivative, its limit, and over a row's NaN.
                still = integer(at + 9) == 0
                to_mean += tl.where((c == 0.0) | still, 0.0, c * d_m)
                to_logvar += tl.where(c == 0.0, 0.0, c * d_q)
        keep = load & (row < (end - begin).to(tl.int32))[:, None]
        if by_mean:
            tl.store(d_mean + own + d, to_mean.to(d_mean.dtype.element_ty), mask=keep)
        if by_logvar:
            tl.store(d_logvar + own + d, to_logvar.to(d_logvar.dtype.element_ty), mask=keep)


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
        form = configs.MATCHED
        args = (*_operands(mean, logvar), _flags(valid), _table(parts, rows, width, mean.device), out)
        sizes = (len(parts), longest, width)
        constants = {"FIELDS": FIELDS, "ROWS": form.rows, "BLOCK_D": form.cols}
        configs.launch(matched_rows_kernel, len(parts) * cdiv(longest, form.rows), (*args, *sizes), constants, form)
    return out


def matched_sums(
    found: Tensor, valid: Tensor, rows: Sequence[int], parts: Sequence[Place], width: int
) -> tuple[Tensor, Tensor]:
    """Of each term: the mean value [terms] over its rows that count; how many those are, at least 1, and their saturated share,
    [2, terms]. found: what `matched_rows` gave."""
    count = terms(parts)
    losses, shares = found.new_empty(count), found.new_empty(2, count)
    form = configs.SUMS
    args = (found, _flags(valid), _table(parts, rows, width, found.device), losses, shares)
    sizes = (len(parts), count, found.shape[2])
    configs.launch(matched_sums_kernel, count, (*args, *sizes), {"FIELDS": FIELDS, "BLOCK": form.cols}, form)
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
        form = configs.MATCHED_BACK
        table = _table(parts, rows, width, mean.device)
        args = (*_operands(mean, logvar), table, found, shares, g.float().contiguous(), d_mean, d_logvar)
        sizes = (len(parts), len(rows), found.shape[2], width, int(need_mean), int(need_logvar))
        constants = {"PER_ROW": g.dim() == 2, "FIELDS": FIELDS, "ROWS": form.rows, "BLOCK_D": form.cols}
        configs.launch(matched_gradients_kernel, len(rows) * cdiv(most, form.rows), (*args, *sizes), constants, form)
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
