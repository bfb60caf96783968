"""Matched rows in plain torch: links and bottlenecks, their means, their gradients; any dtype and device, bounded scratch.

The functions of `fused_rows`, in float64 for float64 and in float32 otherwise. Calls with many elements run compiled on a CPU:
one loop forward and one back for each kind of part, whatever its sizes and numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...gaussian import Gaussian, widen
from ...pairs import SATURATED
from ...pointwise.matched import Numbers, factor_of_sum, local_kind, local_slopes, local_values
from ...pointwise.plan import NONE, SCORE, VIB, Place, starts, terms
from . import compiled

CELLS = {"cpu": 1 << 17}
"""Rows times dimensions at a time: on a CPU temporaries stay in the cache, and no operation is cut up among threads."""
MANY_CELLS = 1 << 22
COMPILED_CELLS = 1 << 21
"""As many for a compiled loop, which has no temporaries but 16-bit types widened."""
COMPILE_CELLS = 1 << 19
"""Elements of all parts of a call from which it runs compiled: below, 1000 calls forward and back gain less than the seconds
that a compilation takes. A step of ProLAP at the paper's size has 950,000."""
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
        shapes = [(h, w)] * 4 + [(3,)] + ([(h,), (4,)] + [(h, w)] * 4 if function is _add_slopes else [])
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
    kind: int, wide: bool, x: Gaussian, y: Gaussian, numbers: Numbers, weight: Tensor, kept: Tensor, *totals: Tensor
) -> Sequence[Tensor]:
    """Adds a part's local slopes times weight [n] to totals, the gradients by x and y, mean and log-variance each; kept [4]: 0
    where the total holds nothing yet."""
    by_mean, *by_logvar = local_slopes(kind, x, y, numbers, weight[:, None])
    slopes = [by_mean, by_logvar[0]] + ([] if kind == VIB else [-by_mean, by_logvar[1]])
    for total, slope, keep in zip(totals, slopes, kept.split(1), strict=False):
        total.copy_(torch.where(keep > 0, total, 0.0) + slope)
    return totals


def matched_rows(mean: Tensor, logvar: Tensor, valid: Tensor, rows: Sequence[int], parts: Sequence[Place]) -> Tensor:
    """[3, parts, longest]: each row's value, saturated share and slope by its H; zeros where a row does not count."""
    sums = widen(mean).new_zeros(2, len(parts), max(place.rows for place in parts))
    counts = torch.zeros(sums.shape[1:], dtype=torch.bool, device=sums.device)
    levels = _Rows(_value_sums, mean, logvar, rows, parts)
    for number, place in enumerate(parts):
        for at, inner, outer in levels.pieces(place):
            for plane, value in zip(sums, levels.run(place, inner, outer), strict=False):
                plane[number, at] = value
        counts[number, : place.rows] = True if place.valid_at < 0 else counted(valid, place)
    return _finished(sums, parts, mean.shape[1]).masked_fill_(~counts, 0)


def _finished(sums: Tensor, parts: Sequence[Place], width: int) -> Tensor:
    """What `matched_rows` gives, of all parts at once, from the sums of their local values [2, parts, longest]."""
    by_loss = [place.part.kind not in (SCORE, NONE, VIB) for place in parts]
    averaged = [width if place.part.kind in (NONE, VIB) else 1 for place in parts]
    loss, factor, divisor = sums.new_tensor(
        [by_loss, [factor_of_sum(place, width) for place in parts], averaged]
    )[:, :, None]  # fmt: skip
    z = -factor * sums[0]
    steep = z.sigmoid()
    value = torch.where(loss > 0, F.softplus(z), sums[0] / divisor)
    flat = torch.where(loss > 0, (steep < SATURATED).to(z), sums[1] / divisor)
    return torch.stack([value, flat, torch.where(loss > 0, -factor * steep, 1.0)])


def counted(valid: Tensor, place: Place) -> Tensor:
    """[rows] bool: which rows of a part count."""
    if place.valid_at < 0:
        return valid.new_ones(place.rows)
    return valid[place.valid_at : place.valid_at + place.rows]


def matched_sums(found: Tensor, valid: Tensor, parts: Sequence[Place]) -> tuple[Tensor, Tensor]:
    """Of each term: the mean value [terms] over its rows that count; how many those are, at least 1, and their saturated share,
    [2, terms]. found: what `matched_rows` gave."""
    term = torch.tensor([place.term for place in parts], device=found.device)
    rows = [place.rows if place.valid_at < 0 else counted(valid, place).sum() for place in parts]
    given = torch.stack([torch.as_tensor(n, dtype=found.dtype, device=found.device) for n in rows])
    sums = found[:2].sum(2)  # rows that do not count are zeros
    total, count, flat = found.new_zeros(3, terms(parts)).index_add_(1, term, torch.stack([sums[0], given, sums[1]]))
    count.clamp_(min=1)
    return total / count, torch.stack([count, flat / count])


def matched_gradients(
    mean: Tensor, logvar: Tensor, found: Tensor, shares: Tensor, g: Tensor, rows: Sequence[int], parts: Sequence[Place],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients by mean and logvar in their dtypes: of g [terms] times the terms' means, or of g [parts, longest] times the rows'
    values. found: what `matched_rows` gave, shares: what `matched_sums` did."""
    totals = _Totals([torch.empty(t.shape, dtype=found.dtype, device=t.device) for t in (mean, logvar)], starts(rows))
    levels = _Rows(_add_slopes, mean, logvar, rows, parts)
    weight = _weights(found, shares, g, parts, mean.shape[1])
    for number, place in enumerate(parts):
        kept = totals.claim(place)
        for at, inner, outer in levels.pieces(place):
            levels.run(place, inner, outer, weight[number, at], kept, *totals.of(place, inner, outer))
    d_mean, d_logvar = totals.finished()
    return d_mean.to(mean.dtype), d_logvar.to(logvar.dtype)


def _weights(found: Tensor, shares: Tensor, g: Tensor, parts: Sequence[Place], width: int) -> Tensor:
    """Of the local slopes, [parts, longest]."""
    wide = max(width, 1)
    share = [{NONE: -p.part.factor / wide, VIB: 1 / wide}.get(int(p.part.kind), 1.0) for p in parts]
    local = found.new_tensor(share)[:, None]
    upstream = g if g.dim() == 2 else (g / shares[0])[[place.term for place in parts], None]
    # a row that does not count gives zeros, whatever the rows and g hold
    return torch.where(found[2] == 0, 0, upstream.to(found) * found[2] * local)


class _Totals:
    """Gradients by the means and the log-variances of all rows, [rows, D] each; of every level the first rows hold something."""

    def __init__(self, tensors: Sequence[Tensor], first: Sequence[int]) -> None:
        self.tensors, self.first = tensors, first
        self.held = [[0] * (len(first) - 1) for _ in tensors]

    def claim(self, place: Place) -> Tensor:
        """Whether the part's rows hold something, [4]: mean and log-variance of its inner and of its outer level. From now on
        they do."""
        kept = []
        for level in (place.inner, place.outer):
            for moved, total, held in zip((place.part.moves_mean, True), self.tensors, self.held, strict=True):
                kept.append(float(bool(moved and held[level])))
                if moved and held[level] < place.rows:
                    start = self.first[level]
                    if held[level]:
                        total[start + held[level] : start + place.rows].zero_()
                    held[level] = place.rows
        return self.tensors[0].new_tensor(kept)

    def of(self, place: Place, inner: slice, outer: slice) -> list[Tensor]:
        """Where the part's slopes are added: mean and log-variance of x, then of y."""
        by_mean, by_logvar = self.tensors
        if place.part.moves_mean:
            return [by_mean[inner], by_logvar[inner], by_mean[outer], by_logvar[outer]]
        unread = [torch.empty_like(by_logvar[inner]) for _ in range(2)]
        return [unread[0], by_logvar[inner], unread[1], by_logvar[outer]]

    def finished(self) -> Sequence[Tensor]:
        for total, held in zip(self.tensors, self.held, strict=True):
            for level, rows in enumerate(held):
                total[self.first[level] + rows : self.first[level + 1]].zero_()
        return self.tensors
