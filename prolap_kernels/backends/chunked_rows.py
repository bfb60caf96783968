"""Matched rows in plain torch: links and bottlenecks, their means, their gradients; any dtype and device, bounded scratch.

The functions of `fused_rows`, in float64 for float64 and in float32 otherwise. Calls with many elements run compiled on a CPU:
one loop forward and one back for each kind of part, whatever its sizes and numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..gaussian import Gaussian, widen
from ..pointwise.matched import Numbers, factor_of_sum, local_kind, local_slopes, local_values
from ..pointwise.plan import NONE, SCORE, VIB, Place, starts, terms
from ..stats import SATURATED
from . import compiled

CELLS = {"cpu": 1 << 17}
"""Rows times dimensions at a time: on a CPU temporaries stay in the cache, and no operation is cut up among threads."""
MANY_CELLS = 1 << 22
COMPILED_CELLS = 1 << 21
"""As many for a compiled loop, which has no temporaries but 16-bit types widened."""
COMPILE_CELLS = 1 << 18
"""Elements of all parts of a call from which it runs compiled: below, eager takes a few ms, and 1000 calls fewer seconds than a
compilation. A step of ProLAP at the paper's size has four times as many."""
Program = Callable[..., Sequence[Tensor]]


class _Rows:
    """The levels one after another, which rows of them a part has, and what runs on these: programs, or eager functions."""

    def __init__(
        self, function: Program, mean: Tensor, logvar: Tensor, rows: Sequence[int], parts: Sequence[Place]
    ) -> None:
        self.function, self.tensors = function, (mean, logvar)
        self.dtype, width = widen(mean).dtype, mean.shape[1]
        self.first = starts(rows)
        cells = width * sum(place.rows for place in parts)
        worthwhile = mean.device.type == "cpu" and cells >= max(COMPILE_CELLS, 1)
        self.programs = _programs(function, {local_kind(place) for place in parts}, self.dtype) if worthwhile else {}
        most = COMPILED_CELLS if self.programs else CELLS.get(mean.device.type, MANY_CELLS)
        self.step = max(1, most // max(width, 1))

    def pieces(self, place: Place) -> Iterator[tuple[slice, slice, slice]]:
        """Ranges of a part's rows: in the part, in all rows of its inner and of its outer level."""
        x, y = self.first[place.inner], self.first[place.outer]
        for start in range(0, place.rows, self.step):
            stop = min(start + self.step, place.rows)
            yield slice(start, stop), slice(x + start, x + stop), slice(y + start, y + stop)

    def run(self, place: Place, inner: slice, outer: slice, *more: Tensor) -> Sequence[Tensor]:
        """The function on some rows of a part."""
        x = [t[inner].to(self.dtype).contiguous() for t in self.tensors]
        y = x if inner == outer else [t[outer].to(self.dtype).contiguous() for t in self.tensors]
        kind, numbers = local_kind(place), Numbers(*place.part[4:7])
        if self.programs:
            return self.programs[kind](*x, *y, torch.tensor(numbers, dtype=self.dtype, device="cpu"), *more)
        return self.function(kind, False, Gaussian(*x), Gaussian(*y), numbers, *more)


def _programs(function: Program, kinds: set[int], dtype: torch.dtype) -> dict[int, Program]:
    """The function for each kind, compiled; nothing if one cannot be."""

    def example(h: int, w: int) -> list[Tensor]:
        # no tensor twice: tracing would take the two for one
        random = torch.Generator().manual_seed(0)
        shapes = [(h, w)] * 4 + [(3,)] + ([(h,)] + [(h, w)] * 4 if function is _add_slopes else [])
        return [torch.rand(shape, generator=random, dtype=dtype, device="cpu") for shape in shapes]

    made = {}
    for kind in sorted(kinds):

        def flat(*t: Tensor, kind: int = kind) -> Sequence[Tensor]:
            return function(kind, True, Gaussian(*t[:2]), Gaussian(*t[2:4]), Numbers(*t[4].split(1)), *t[5:])

        program = compiled.program(("rows", function, kind, dtype), flat, example)
        if program is None:
            return {}
        made[kind] = program
    return made


def _value_sums(kind: int, wide: bool, x: Gaussian, y: Gaussian, numbers: Numbers) -> list[Tensor]:
    """A part's local values summed over dimensions, [n] each; wide: in float64, since a compiled loop adds lane by lane, where
    eager torch adds in pairs."""
    made = local_values(kind, x, y, numbers)
    return [t.sum(1, dtype=torch.float64).to(t.dtype) if wide else t.sum(1) for t in made]


def _add_slopes(
    kind: int, wide: bool, x: Gaussian, y: Gaussian, numbers: Numbers, weight: Tensor, *totals: Tensor
) -> Sequence[Tensor]:
    """Adds a part's local slopes times weight [n] to totals, the gradients by x and y, mean and log-variance each."""
    by_mean, *by_logvar = local_slopes(kind, x, y, numbers, weight[:, None])
    totals[0].add_(by_mean)
    totals[1].add_(by_logvar[0])
    if kind != VIB:
        totals[2].sub_(by_mean)
        totals[3].add_(by_logvar[1])
    return totals


def matched_rows(mean: Tensor, logvar: Tensor, valid: Tensor, rows: Sequence[int], parts: Sequence[Place]) -> Tensor:
    """[3, parts, longest]: each row's value, saturated share and slope by its H; zeros where a row does not count."""
    out = widen(mean).new_zeros(3, len(parts), max(place.rows for place in parts))
    levels = _Rows(_value_sums, mean, logvar, rows, parts)
    for number, place in enumerate(parts):
        for at, inner, outer in levels.pieces(place):
            found = _finished(levels.run(place, inner, outer), place, mean.shape[1])
            for plane, value in zip(out, found, strict=True):
                plane[number, at] = value
        if place.valid_at >= 0:
            out[:, number, : place.rows].masked_fill_(~counted(valid, place), 0)
    return out


def _finished(
    sums: Sequence[Tensor], place: Place, width: int
) -> tuple[Tensor | float, Tensor | float, Tensor | float]:
    """Value, saturated share and slope by the sum of h, each [n] or the same for all rows."""
    kind = place.part.kind
    if kind == SCORE:
        return sums[0], 0.0, 1.0
    if kind == VIB:
        return sums[0] / width, 0.0, 1.0
    if kind == NONE:
        return sums[0] / width, sums[1] / width, 1.0
    factor = factor_of_sum(place, width)
    z = -factor * sums[0]
    steep = z.sigmoid()
    return F.softplus(z), (steep < SATURATED).to(z), -factor * steep


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
    sums = found[:2].sum(2)  # rows that do not count are zeros
    for number, place in enumerate(parts):
        losses[place.term] += sums[0, number]
        shares[1, place.term] += sums[1, number]
        shares[0, place.term] += place.rows if place.valid_at < 0 else counted(valid, place).sum()
    shares[0].clamp_(min=1)
    shares[1] /= shares[0]
    return losses / shares[0], shares


def matched_gradients(
    mean: Tensor, logvar: Tensor, found: Tensor, shares: Tensor, g: Tensor, rows: Sequence[int], parts: Sequence[Place],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients by mean and logvar in their dtypes: of g [terms] times the terms' means, or of g [parts, longest] times the rows'
    values. found: what `matched_rows` gave, shares: what `matched_sums` did."""
    d_mean, d_logvar = (torch.zeros_like(t, dtype=found.dtype) for t in (mean, logvar))
    levels = _Rows(_add_slopes, mean, logvar, rows, parts)
    for number, place in enumerate(parts):
        upstream = g[number] if g.dim() == 2 else (g / shares[0])[place.term].expand(found.shape[2])
        slope = found[2, number]
        share = {NONE: -place.part.factor, VIB: 1.0}.get(int(place.part.kind))
        local = slope if share is None else slope * (share / max(mean.shape[1], 1))
        # a row that does not count gives zeros, whatever the rows and g hold
        weight = torch.where(slope == 0, 0, upstream.to(slope) * local)
        for at, inner, outer in levels.pieces(place):
            to_means = [d_mean[part] for part in (inner, outer)]
            if not place.part.moves_mean:
                to_means = [torch.empty_like(t) for t in to_means]  # nobody reads them
            levels.run(place, inner, outer, weight[at], to_means[0], d_logvar[inner], to_means[1], d_logvar[outer])
    return d_mean.to(mean.dtype), d_logvar.to(logvar.dtype)
