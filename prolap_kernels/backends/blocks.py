"""Operands in the one form that the kernels are compiled for, and a rectangle of pairs cut into blocks of scratch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from . import tiles

SCRATCH = 1 << 28
"""Bytes of a block of G, the gradients by the logits: the larger, the fuller the last wave of its products and the fewer sums
that are read again; 65,536 rows in 16 bits make 36 blocks."""
ALIGN = 16
"""Rows start at, and are as long as, multiples of this many elements: one compiled form, vectorised loads."""


def up(size: int, unit: int) -> int:
    return max(-(-size // unit), 1) * unit


def operand(t: Tensor) -> Tensor:
    """t [R, K], or a copy padded with zero columns: rows contiguous, aligned and a multiple of ALIGN long."""
    width = up(t.shape[1], ALIGN)
    if width == t.shape[1] and t.stride(1) == 1 and t.stride(0) % ALIGN == 0 and t.data_ptr() % 16 == 0:
        return t
    out = t.new_zeros(t.shape[0], width)
    out[:, : t.shape[1]] = t
    return out


def vector(t: Tensor, size: int, absent: float) -> Tensor:
    return aligned(t.float()) if t.numel() else torch.full((size,), absent, dtype=torch.float32, device=t.device)


def aligned(t: Tensor) -> Tensor:
    t = t.contiguous()
    return t if t.data_ptr() % 16 == 0 else t.clone()


def blocks(n: int, m: int, height: int, breadth: int) -> Iterator[tuple[slice, slice]]:
    """Row and column ranges of an n x m rectangle in blocks."""
    for i in range(0, n, height):
        for j in range(0, m, breadth):
            yield slice(i, min(i + height, n)), slice(j, min(j + breadth, m))


def block_sides(n: int, m: int, itemsize: int, tile: tiles.Tile) -> tuple[int, int]:
    """Rows and columns of a block of G: whole tiles, about square, of nearly equal blocks, at most SCRATCH bytes."""
    cells = SCRATCH // itemsize
    height = min(up(n, tile.m), max(int(cells**0.5), cells // up(m, tile.n)))
    height = _even(n, height, tile.m)
    return height, _even(m, cells // height, tile.n)


def _even(total: int, most: int, tile: int) -> int:
    """The side, in whole tiles, of the fewest equal parts of `total` that are no longer than `most`."""
    most = max(most // tile * tile, tile)
    parts = -(-total // most)
    return up(-(-total // parts), tile)


def constants(kernel: object, tile: tiles.Tile) -> dict[str, object]:
    """Constants that every matrix kernel takes."""
    upcast = tiles.interpreted(kernel)  # the interpreter's bfloat16 product is garbage
    return {"UPCAST": upcast, "BLOCK_M": tile.m, "BLOCK_N": tile.n, "BLOCK_K": tile.k, "GROUP": tiles.GROUP}
