"""Matched rows in plain torch: values, means and gradients of links; any dtype and device, bounded workspace.

float64 inputs are computed in float64, others in float32. On a CPU, large calls run compiled: one loop forward and one backward
for each kind of link, whatever its sizes and coefficients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...gaussian import Gaussian, widen
from ...pairs import SATURATED
from ...scores.inclusion import matched_gradient, matched_value
from ..links import (
    GRADIENT,
    NO_FLAGS,
    NONE,
    SATURATED_SHARE,
    SCORE,
    SUM,
    VALUE,
    VIB,
    Link,
    count_terms,
    counted_rows,
    starts,
)
from . import compiled

CELLS = {"cpu": 1 << 17}
"""Elements that run at a time: so few that on a CPU temporaries stay in the cache, and torch starts no threads."""
MANY_CELLS = 1 << 22
"""The same on other devices."""
COMPILED_CELLS = 1 << 21
"""The same for a compiled loop, whose only temporaries are widened 16-bit inputs."""
COMPILE_CELLS = 1 << 19
"""Elements of all links of a call from which it runs compiled: smaller ones would take over 1000 steps to win back the seconds of
a compilation. A step of ProLAP at the paper's size has 950,000."""
Program = Callable[..., Sequence[Tensor]]


class Coefficients(NamedTuple):
    """Coefficients of a `Link`: floats, or tensors [1] in a program that serves all links of a kind."""

    factor: float | Tensor
    kappa: float | Tensor
    mean_scale: float | Tensor


def _values(kind: int, x: Gaussian, y: Gaussian, of: Coefficients) -> tuple[Tensor, ...]:
    """The summands over dimensions, [n, D] each. SCORE: h. NONE: -log sigmoid(factor h), and whether that is saturated. VIB:
    -(1 + q - m^2 - exp(q))/2 of x, with q = factor * logvar."""
    if kind == VIB:
        q = of.factor * x.logvar
        return (0.5 * (q.expm1() - q + x.mean.square()),)
    h = matched_value(*x, *y, of.kappa, of.mean_scale)
    if kind == SCORE:
        return (h,)
    z = -of.factor * h
    return F.softplus(z), (z.sigmoid() < SATURATED).to(z)


def _gradients(kind: int, x: Gaussian, y: Gaussian, of: Coefficients, weight: Tensor) -> tuple[Tensor, ...]:
    """weight [n, 1] times the derivatives of `_values` by x.mean, x.logvar and, but for VIB, y.logvar, [n, D] each; under NONE
    the weight is that of factor h. The derivative by y.mean is minus the first."""
    if kind == VIB:
        by_q = 0.5 * (of.factor * x.logvar).expm1()
        return _times(weight, x.mean), _times(of.factor * weight, by_q)
    if kind == NONE:
        weight = weight * (-of.factor * matched_value(*x, *y, of.kappa, of.mean_scale)).sigmoid()
    by_mean, by_lx, by_ly = matched_gradient(*x, *y, of.kappa, of.mean_scale)
    return _times(weight, by_mean), _times(weight, by_lx), _times(weight, by_ly)


def _times(weight: Tensor, derivative: Tensor) -> Tensor:
    """The product, but 0 where the weight is 0, even if the derivative is infinite or NaN."""
    return torch.where(weight == 0, 0.0, weight * derivative)


class _Loops:
    """Runs a function of links on some rows at a time: compiled where that pays, else eagerly."""

    def __init__(
        self, function: Program, mean: Tensor, logvar: Tensor, rows: Sequence[int], links: Sequence[Link]
    ) -> None:
        self.function, self.tensors = function, (mean, logvar)
        self.dtype, width = widen(mean).dtype, mean.shape[1]
        self.first = starts(rows)
        cells = width * sum(link.rows for link in links)
        worthwhile = mean.device.type == "cpu" and cells >= max(COMPILE_CELLS, 1)
        self.programs = _programs(function, {_kind(link) for link in links}, self.dtype) if worthwhile else {}
        most = COMPILED_CELLS if self.programs else CELLS.get(mean.device.type, MANY_CELLS)
        self.step = max(1, most // max(width, 1))

    def pieces(self, link: Link) -> Iterator[tuple[slice, slice, slice]]:
        """Ranges of a link's rows: in the link, in all rows of its inner and of its outer level."""
        x, y = self.first[link.inner], self.first[link.outer]
        for start in range(0, link.rows, self.step):
            stop = min(start + self.step, link.rows)
            yield slice(start, stop), slice(x + start, x + stop), slice(y + start, y + stop)

    def run(self, link: Link, inner: slice, outer: slice, *more: Tensor) -> Sequence[Tensor]:
        """The function on some rows of a link."""
        x = [t[inner].to(self.dtype).contiguous() for t in self.tensors]
        y = x if inner == outer else [t[outer].to(self.dtype).contiguous() for t in self.tensors]
        kind, coefficients = _kind(link), Coefficients(link.factor, link.kappa, link.mean_scale)
        if self.programs:
            return self.programs[kind](*x, *y, torch.tensor(coefficients, dtype=self.dtype, device="cpu"), *more)
        return self.function(kind, False, Gaussian(*x), Gaussian(*y), coefficients, *more)


def _kind(link: Link) -> int:
    """The link's kind, or SCORE for every link that sums h itself."""
    return SCORE if link.kind == SUM else link.kind


def _programs(function: Program, kinds: set[int], dtype: torch.dtype) -> dict[int, Program]:
    """The function for each kind, compiled; empty if one fails to compile."""

    def example(h: int, w: int) -> list[Tensor]:
        # every tensor its own: tracing would take two equal ones for one
        random = torch.Generator().manual_seed(0)
        shapes = [(h, w)] * 4 + [(3,)] + ([(h,), (4,)] + [(h, w)] * 4 if function is _add_gradients else [])
        return [torch.rand(shape, generator=random, dtype=dtype, device="cpu") for shape in shapes]

    programs = {}
    for kind in sorted(kinds):

        def flat(*t: Tensor, kind: int = kind) -> Sequence[Tensor]:
            return function(kind, True, Gaussian(*t[:2]), Gaussian(*t[2:4]), Coefficients(*t[4].split(1)), *t[5:])

        program = compiled.program(("rows", function, kind, dtype), flat, example)
        if program is None:
            return {}
        programs[kind] = program
    return programs


def _value_sums(kind: int, in_float64: bool, x: Gaussian, y: Gaussian, of: Coefficients) -> list[Tensor]:
    """`_values` summed over dimensions, [n] each; in float64 in a compiled loop, which adds one by one, where eager torch adds in
    pairs."""
    values = _values(kind, x, y, of)
    return [t.sum(1, dtype=torch.float64).to(t.dtype) if in_float64 else t.sum(1) for t in values]


def _add_gradients(
    kind: int, in_float64: bool, x: Gaussian, y: Gaussian, of: Coefficients, weight: Tensor, kept: Tensor,
    *totals: Tensor,
) -> Sequence[Tensor]:  # fmt: skip
    """Adds `_gradients` of weight [n] to totals, the gradients by mean and log-variance of x, then of y; kept [4]: 0 where a
    total is still unset."""
    by_mean, *by_logvar = _gradients(kind, x, y, of, weight[:, None])
    gradients = [by_mean, by_logvar[0]] + ([] if kind == VIB else [-by_mean, by_logvar[1]])
    for total, gradient, keep in zip(totals, gradients, kept.split(1), strict=False):
        total.copy_(torch.where(keep > 0, total, 0.0) + gradient)
    return totals


def matched_rows(mean: Tensor, logvar: Tensor, valid: Tensor, rows: Sequence[int], links: Sequence[Link]) -> Tensor:
    """results of `ops.matched.matched_rows_op`."""
    sums = widen(mean).new_zeros(2, len(links), max(link.rows for link in links))
    counted = torch.zeros(sums.shape[1:], dtype=torch.bool, device=sums.device)
    loops = _Loops(_value_sums, mean, logvar, rows, links)
    for number, link in enumerate(links):
        for piece, inner, outer in loops.pieces(link):
            for plane, value in zip(sums, loops.run(link, inner, outer), strict=False):
                plane[number, piece] = value
        counted[number, : link.rows] = True if link.flags_at == NO_FLAGS else counted_rows(valid, link)
    return _finished(sums, links, mean.shape[1]).masked_fill_(~counted, 0)


def _finished(sums: Tensor, links: Sequence[Link], width: int) -> Tensor:
    """The results of `matched_rows`, for all links at once, from the sums over dimensions [2, links, longest]."""
    is_sum = [link.kind == SUM for link in links]
    divisors = [width if link.kind in (NONE, VIB) else 1 for link in links]
    loss, factor, divisor = sums.new_tensor([is_sum, [link.factor for link in links], divisors])[:, :, None]
    z = -factor * sums[0]
    steep = z.sigmoid()
    value = torch.where(loss > 0, F.softplus(z), sums[0] / divisor)
    saturated = torch.where(loss > 0, (steep < SATURATED).to(z), sums[1] / divisor)
    return torch.stack([value, saturated, torch.where(loss > 0, -factor * steep, 1.0)])


def matched_means(results: Tensor, valid: Tensor, rows: Sequence[int], links: Sequence[Link]) -> tuple[Tensor, Tensor]:
    """means and shares of `ops.matched.matched_rows_op`."""
    term = torch.tensor([link.term for link in links], device=results.device)
    counts = [link.rows if link.flags_at == NO_FLAGS else counted_rows(valid, link).sum() for link in links]
    counted = torch.stack([torch.as_tensor(n, dtype=results.dtype, device=results.device) for n in counts])
    value, saturated = results[VALUE].sum(1), results[SATURATED_SHARE].sum(1)  # rows that do not count are zeros
    sums = results.new_zeros(3, count_terms(links)).index_add_(1, term, torch.stack([value, counted, saturated]))
    total, count, flat = sums
    count.clamp_(min=1)
    return total / count, torch.stack([count, flat / count])


def matched_gradients(
    mean: Tensor, logvar: Tensor, results: Tensor, shares: Tensor, g: Tensor, rows: Sequence[int], links: Sequence[Link],
    need: tuple[bool, bool],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The gradients of `ops.matched.matched_gradients_op`."""
    totals = _Totals([torch.empty(t.shape, dtype=results.dtype, device=t.device) for t in (mean, logvar)], starts(rows))
    loops = _Loops(_add_gradients, mean, logvar, rows, links)
    weight = _weights(results, shares, g, links, mean.shape[1])
    for number, link in enumerate(links):
        kept = totals.claim(link)
        for piece, inner, outer in loops.pieces(link):
            loops.run(link, inner, outer, weight[number, piece], kept, *totals.of(link, inner, outer))
    totals.finish()
    d_mean, d_logvar = (
        total.to(t.dtype) if needed else t.new_empty(0)
        for total, t, needed in zip(totals.tensors, (mean, logvar), need, strict=True)
    )
    return d_mean, d_logvar


def _weights(results: Tensor, shares: Tensor, g: Tensor, links: Sequence[Link], width: int) -> Tensor:
    """Weights of the rows in `_gradients`, [links, longest]."""
    wide = max(width, 1)
    share = [{NONE: -link.factor / wide, VIB: 1 / wide}.get(link.kind, 1.0) for link in links]
    local = results.new_tensor(share)[:, None]
    upstream = g if g.dim() == 2 else (g / shares[0])[[link.term for link in links], None]
    # a row that does not count gives zeros, whatever the rows and g hold
    return torch.where(results[GRADIENT] == 0, 0, upstream.to(results) * results[GRADIENT] * local)


class _Totals:
    """Gradients by the means and the log-variances of all rows, [rows, D] each; of each level the first `held` rows are set."""

    def __init__(self, tensors: Sequence[Tensor], first: Sequence[int]) -> None:
        self.tensors, self.first = tensors, first
        self.held = [[0] * (len(first) - 1) for _ in tensors]

    def claim(self, link: Link) -> Tensor:
        """Whether the link's rows are set, [4]: mean and log-variance of its inner and of its outer level; counts them as set."""
        kept = []
        for level in (link.inner, link.outer):
            for moved, total, held in zip((link.moves_mean, True), self.tensors, self.held, strict=True):
                kept.append(float(bool(moved and held[level])))
                if moved and held[level] < link.rows:
                    start = self.first[level]
                    if held[level]:
                        total[start + held[level] : start + link.rows].zero_()
                    held[level] = link.rows
        return self.tensors[0].new_tensor(kept)

    def of(self, link: Link, inner: slice, outer: slice) -> list[Tensor]:
        """The totals that the link's gradients are added to: mean and log-variance of x, then of y."""
        by_mean, by_logvar = self.tensors
        if link.moves_mean:
            return [by_mean[inner], by_logvar[inner], by_mean[outer], by_logvar[outer]]
        unread = [torch.empty_like(by_logvar[inner]) for _ in range(2)]
        return [unread[0], by_logvar[inner], unread[1], by_logvar[outer]]

    def finish(self) -> None:
        """Zeros the rows that are not set."""
        for total, held in zip(self.tensors, self.held, strict=True):
            for level, rows in enumerate(held):
                total[self.first[level] + rows : self.first[level + 1]].zero_()
