"""Matched rows: every inclusion link and bottleneck of a step, values in one launch, their means in one, gradients in one.

table [parts * FIELDS + levels + 1] float64, exact for its integers. A part's fields are kind, inner, outer (levels), rows, term,
valid_at, factor, kappa, rho, moves_mean (`pointwise.plan`); the rows at which levels start follow the last part.
Kinds: 0 -log sigmoid(factor * sum_d h_d), 2 sum_d -log sigmoid(factor * h_d) / width, 3 sum_d h_d, 4 the bottleneck.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .inclusion import inclusion, inclusion_gradient
from .numerics import expm1_excess, softplus_sigmoid

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
def matched_rows(
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
def matched_sums(
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
def matched_gradients(
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
