"""Links of matched rows: one form for the public losses, the raw ops and every backend."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, groupby
from typing import NamedTuple

from torch import Tensor

SUM, MEAN, NONE, SCORE, VIB = range(5)
"""Kinds of links. SUM, MEAN: -log sigmoid(factor H), H summed or averaged over the dimensions; NONE: the mean over dimensions of
-log sigmoid(factor h_d); SCORE: H itself; VIB: the KL divergence of one level from N(0, I)."""
VALUE, SATURATED_SHARE, GRADIENT = range(3)
"""Planes of the results of `matched_rows` [3, links, longest]; GRADIENT: of the value by H."""
NO_FLAGS = -1


class Link(NamedTuple):
    """Level `inner` inside level `outer`, or the bottleneck of one level (inner == outer).

    kind: SUM, MEAN, NONE, SCORE or VIB. inner, outer: indices of levels. term: index of the term that the link belongs to.
    factor: scale of an inclusion, or factor of a bottleneck's log-variance (1, or 1/2 in ProLIP's convention). kappa,
    mean_scale: coefficients of H, the second the root of rho. moves_mean: whether the gradient reaches the means.
    flagged: whether flags say which rows count. The raw ops carry these; `unpack` adds
    rows: the number of matched rows, those of the shorter level. flags_at: start of the flags, NO_FLAGS where all rows count.
    """

    kind: int
    inner: int
    outer: int
    term: int
    factor: float
    kappa: float
    mean_scale: float
    moves_mean: bool
    flagged: bool
    rows: int = 0
    flags_at: int = NO_FLAGS


PACKED = Link._fields.index("rows")
"""Number of fields that the raw ops carry."""


def pack(links: Sequence[Link]) -> list[float]:
    """The links as flat numbers, which a custom op can take."""
    return [float(value) for link in links for value in link[:PACKED]]


def unpack(numbers: Sequence[float], rows: Sequence[int], width: int) -> list[Link]:
    """The links that `pack` packed, for levels of `rows` rows and `width` dimensions; MEAN becomes SUM with factor / width."""
    links, flags_at = [], 0
    packed = [numbers[start : start + PACKED] for start in range(0, len(numbers), PACKED)]
    for _, members in groupby(map(_read, packed), key=lambda link: link.term):
        term = [link._replace(rows=min(rows[link.inner], rows[link.outer])) for link in members]
        longest = max(link.rows for link in term)
        for link in term:
            if link.kind == MEAN:
                link = link._replace(kind=SUM, factor=link.factor / max(width, 1))
            links.append(link._replace(flags_at=flags_at) if link.flagged else link)
            flags_at += longest * link.flagged
    return links


def _read(numbers: Sequence[float]) -> Link:
    kind, inner, outer, term, factor, kappa, mean_scale, moves_mean, flagged = numbers
    return Link(
        int(kind), int(inner), int(outer), int(term), factor, kappa, mean_scale, bool(moves_mean), bool(flagged)
    )


def starts(rows: Sequence[int]) -> list[int]:
    """First row of each level among the rows of all levels, and the end."""
    return list(accumulate(rows, initial=0))


def count_terms(links: Sequence[Link]) -> int:
    """How many terms the links belong to."""
    return 1 + max(link.term for link in links)


def counted_rows(valid: Tensor, link: Link) -> Tensor:
    """Which rows of a link count, bool [rows]; valid: the flags of all links."""
    if link.flags_at == NO_FLAGS:
        return valid.new_ones(link.rows)
    return valid[link.flags_at : link.flags_at + link.rows]
