"""The terms of a call over matched rows as flat numbers, which is what a custom op can take."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

SUM, MEAN, NONE, SCORE, VIB = range(5)
"""Kinds of parts: -log sigmoid(scale H) with H summed or averaged over D, or per dimension; H itself; the bottleneck."""


class Part(NamedTuple):
    """A link of a term, level `inner` inside level `outer`, or the bottleneck of one level (inner == outer).

    term: whose it is; factor: scale of an inclusion, share of the log-variance that a bottleneck takes (1, or 1/2 in ProLIP's
    convention); moves_mean: whether its gradient reaches the means. Numbers alone, exact in float64.
    """

    kind: float
    inner: float
    outer: float
    term: float
    factor: float
    kappa: float
    rho: float
    moves_mean: float


class Place(NamedTuple):
    """Where the numbers of a `Part` apply: `rows` matched rows, and their flags from `valid_at` on; -1: all of them count."""

    part: Part
    rows: int
    valid_at: int

    @property
    def inner(self) -> int:
        return int(self.part.inner)

    @property
    def outer(self) -> int:
        return int(self.part.outer)

    @property
    def term(self) -> int:
        return int(self.part.term)


def places(parts: Sequence[float], rows: Sequence[int], valid_at: Sequence[int]) -> list[Place]:
    """parts: `Part` after `Part`; rows: of each level. A link holds for the rows that both its levels have."""
    width = len(Part._fields)
    found = [Part(*parts[i : i + width]) for i in range(0, len(parts), width)]
    return [
        Place(part, min(rows[int(part.inner)], rows[int(part.outer)]), at)
        for part, at in zip(found, valid_at, strict=True)
    ]


def starts(rows: Sequence[int]) -> list[int]:
    """First row of each level among all rows, and the end."""
    return list(accumulate(rows, initial=0))


def terms(parts: Sequence[Place]) -> int:
    """How many terms the parts belong to."""
    return 1 + max(place.term for place in parts)
