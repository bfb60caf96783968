"""A rectangle of pairs cut into blocks whose workspace is bounded."""

from __future__ import annotations

import math
from collections.abc import Iterator


def cdiv(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def up(size: int, unit: int) -> int:
    """The next multiple of `unit`, at least one."""
    return max(cdiv(size, unit), 1) * unit


def ranges(total: int, step: int) -> Iterator[slice]:
    return (slice(first, min(first + step, total)) for first in range(0, total, step))


def blocks(n: int, m: int, shape: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """Row and column ranges of an n x m rectangle in blocks of this shape, row by row."""
    for rows in ranges(n, shape[0]):
        for cols in ranges(m, shape[1]):
            yield rows, cols


def block_shape(
    n: int, m: int, cells: int, *, live: int = 1, beside: int = 0, unit: tuple[int, int] = (1, 1), even: bool = True
) -> tuple[int, int]:
    """Rows h and columns w of a block: about square, in whole units, with live h w + beside (h + w) <= cells wherever possible.

    live: numbers that a pair of the block takes; beside: numbers that each of its rows and columns takes; even: blocks of nearly
    equal size, rather than large ones and a small rest.
    """
    spare, wide = beside if even else 0, up(m, unit[1])
    height = (math.sqrt(spare * spare + live * cells) - spare) / live
    if wide < height:  # all columns fit beside more rows
        height = (cells - spare * wide) / (live * wide + spare)
    rows = _side(n, int(height), unit[0], even)
    cols = _side(m, int((cells - spare * rows) / (live * rows + spare)), unit[1], even)
    while live * rows * cols + beside * (rows + cols) > cells and max(rows, cols) > max(unit):
        rows, cols = (rows, cdiv(cols, 2)) if cols >= rows else (cdiv(rows, 2), cols)
    return rows, cols


def _side(total: int, most: int, unit: int, even: bool) -> int:
    """A side of at most `most` in whole units, at least one unit; even: that of the fewest equal parts of `total`."""
    most = max(min(up(total, unit), most // unit * unit), unit)
    return up(cdiv(total, cdiv(total, most)), unit) if even and total else most
