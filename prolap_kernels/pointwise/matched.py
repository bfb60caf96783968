"""Matched rows in plain torch: links and bottlenecks, their means, their gradients; any dtype and device, bounded scratch.

The functions of `backends.fused_rows`, in float64 for float64 and in float32 otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..gaussian import Gaussian, widen
from ..scores.inclusion import formula
from ..stats import SATURATED
from .inclusion import Terms
from .plan import MEAN, NONE, SCORE, VIB, Place, starts, terms
from .vib import vib, vib_gradient

CELLS = {"cpu": 1 << 17}
"""Rows times dimensions at a time: on a CPU temporaries stay in the cache, and no operation is cut up among threads."""
MANY_CELLS = 1 << 22


def matched_rows(mean: Tensor, logvar: Tensor, valid: Tensor, rows: Sequence[int], parts: Sequence[Place]) -> Tensor:
    """[3, parts, longest]: each row's value, saturated share and slope by its H; zeros where a row does not count."""
    out = widen(mean).new_zeros(3, len(parts), max(place.rows for place in parts))
    for number, place in enumerate(parts):
        for at, x, y in _pieces(mean, logvar, rows, place):
            found = _bottleneck(x, place) if place.part.kind == VIB else _link(x, y, place)
            for plane, value in zip(out, found, strict=True):
                plane[number, at] = value
        out[:, number, : place.rows].masked_fill_(~counted(valid, place), 0)
    return out


def counted(valid: Tensor, place: Place) -> Tensor:
    """[rows] bool: which rows of a part count."""
    if place.valid_at < 0:
        return valid.new_ones(place.rows)
    return valid[place.valid_at : place.valid_at + place.rows]


def matched_sums(found: Tensor, valid: Tensor, parts: Sequence[Place]) -> tuple[Tensor, Tensor]:
    """Of each term: the mean value [terms] over its rows that count; how many those are, at least 1, and their saturated share,
    [2, terms]. found: what `matched_rows` gave."""
    count = terms(parts)
    losses, shares = found.new_zeros(count), found.new_zeros(2, count)
    for number, place in enumerate(parts):
        losses[place.term] += found[0, number].sum()
        shares[0, place.term] += counted(valid, place).sum()
        shares[1, place.term] += found[1, number].sum()
    shares[0].clamp_(min=1)
    shares[1] /= shares[0]
    return losses / shares[0], shares


def matched_gradients(
    mean: Tensor, logvar: Tensor, found: Tensor, shares: Tensor, g: Tensor, rows: Sequence[int], parts: Sequence[Place],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients by mean and logvar in their dtypes: of g [terms] times the terms' means, or of g [parts, longest] times the rows'
    values. found: what `matched_rows` gave, shares: what `matched_sums` did."""
    d_mean, d_logvar = (torch.zeros_like(t, dtype=found.dtype) for t in (mean, logvar))
    first = starts(rows)
    for number, place in enumerate(parts):
        upstream = g[number] if g.dim() == 2 else (g / shares[0])[place.term].expand(found.shape[2])
        slope = found[2, number]
        # a row that does not count gives zeros, whatever the rows and g hold
        weight = torch.where(slope == 0, 0, upstream.to(slope) * slope)[:, None]
        for at, x, y in _pieces(mean, logvar, rows, place):
            for level, to_mean, to_logvar in _derivatives(x, y, weight[at], place):
                here = slice(first[level] + at.start, first[level] + at.stop)
                if place.part.moves_mean:
                    d_mean[here] += to_mean
                d_logvar[here] += to_logvar
    return d_mean.to(mean.dtype), d_logvar.to(logvar.dtype)


def _pieces(
    mean: Tensor, logvar: Tensor, rows: Sequence[int], place: Place
) -> Iterator[tuple[slice, Gaussian, Gaussian]]:
    """Ranges of a part's rows, with its inner and outer level there."""
    first = starts(rows)
    step = max(1, CELLS.get(mean.device.type, MANY_CELLS) // max(mean.shape[1], 1))

    def level(number: int, at: slice) -> Gaussian:
        here = slice(first[number] + at.start, first[number] + at.stop)
        return Gaussian(widen(mean[here]), widen(logvar[here]))

    for start in range(0, place.rows, step):
        at = slice(start, min(start + step, place.rows))
        x = level(place.inner, at)
        yield at, x, x if place.inner == place.outer else level(place.outer, at)


def _factor(place: Place, width: int) -> float:
    """On the sum of h over dimensions."""
    return place.part.factor / max(width, 1) if place.part.kind == MEAN else place.part.factor


def _link(x: Gaussian, y: Gaussian, place: Place) -> tuple[Tensor | float, Tensor | float, Tensor | float]:
    """Value, saturated share and slope by the sum of h, each [n] or the same for all rows."""
    h = Terms(x, y, place.part.kappa, place.part.rho).value
    if place.part.kind == SCORE:
        return h.sum(1), 0.0, 1.0
    factor = _factor(place, h.shape[1])
    z = -factor * (h if place.part.kind == NONE else h.sum(1))
    steep = z.sigmoid()
    flat = (steep < SATURATED).to(z)
    if place.part.kind == NONE:
        return F.softplus(z).mean(1), flat.mean(1), 1.0
    return F.softplus(z), flat, -factor * steep


def _bottleneck(z: Gaussian, place: Place) -> tuple[Tensor, float, float]:
    return vib(z.mean, place.part.factor * z.logvar).mean(1), 0.0, 1.0


def _derivatives(x: Gaussian, y: Gaussian, weight: Tensor, place: Place) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(level, by its means, by its log-variances) of the rows' values times weight [n, 1]."""
    part, width = place.part, x.mean.shape[1]
    if part.kind == VIB:
        by_mean, by_q = vib_gradient(x.mean, part.factor * x.logvar)
        weight = weight / max(width, 1)
        yield place.inner, _times(weight, by_mean), _times(part.factor * weight, by_q)
        return
    terms = Terms(x, y, part.kappa, part.rho)
    if part.kind == NONE:
        weight = weight * (-part.factor * terms.value).sigmoid() * (-part.factor / max(width, 1))
    by_mean, by_lx, by_ly = (_times(weight, local) for local in terms.gradient())
    yield place.inner, by_mean, by_lx
    yield place.outer, -by_mean, by_ly


def _times(weight: Tensor, local: Tensor) -> Tensor:
    """A vanished weight wins over an infinite derivative, its limit, and over a row's NaN."""
    return (weight * local).masked_fill_(weight == 0, 0)


def formula_rows(levels: Sequence[Gaussian], place: Place) -> Tensor:
    """Values of a part's rows [rows] by the plain formulas, differentiable: the truth for tests, in float64."""
    part = place.part
    x, y = (levels[k].rows(slice(place.rows)) for k in (place.inner, place.outer))
    if not part.moves_mean:
        x, y = (Gaussian(z.mean.detach(), z.logvar) for z in (x, y))
    if part.kind == VIB:
        return vib(widen(x.mean), part.factor * widen(x.logvar)).mean(1)
    h = formula(x, y, part.kappa, part.rho)
    if part.kind == SCORE:
        return h.sum(1)
    if part.kind == NONE:
        return -F.logsigmoid(part.factor * h).mean(1)
    return -F.logsigmoid(_factor(place, h.shape[1]) * h.sum(1))
