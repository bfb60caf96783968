"""A rectangle of pairs cut into blocks whose workspace is bounded."""

from __future__ import annotations

from collections.abc import Iterator

SCRATCH = 1 << 28
"""Bytes of a block of G, the gradients by the logits: the larger, the fuller the last wave of its products and the fewer sums
that are read again; 65,536 rows in 16 bits make 36 blocks."""


def cdiv(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def up(size: int, unit: int) -> int:
    """The next multiple of `unit`, at least one."""
    return max(cdiv(size, unit), 1) * unit


def blocks(n: int, m: int, height: int, breadth: int) -> Iterator[tuple[slice, slice]]:
    """Row and column ranges of an n x m rectangle in blocks."""
    for i in range(0, n, height):
        for j in range(0, m, breadth):
            yield slice(i, min(i + height, n)), slice(j, min(j + breadth, m))


def block_sides(n: int, m: int, itemsize: int, tile: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a block of G: whole tiles, about square, of nearly equal blocks, at most SCRATCH bytes."""
    cells = SCRATCH // itemsize
    height = min(up(n, tile[0]), max(int(cells**0.5), cells // up(m, tile[1])))
    height = _even(n, height, tile[0])
    return height, _even(m, cells // height, tile[1])


def _even(total: int, most: int, unit: int) -> int:
    """The side, in whole units, of the fewest equal parts of `total` that are no longer than `most`."""
    most = max(most // unit * unit, unit)
    return up(cdiv(total, cdiv(total, most)), unit)
