"""Launches of the kernels of scores that are sums over dimensions. No autograd here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ..scores import SCORES
from ..scores.base import Parts, Tile
from . import tiles
from .blocks import up
from .kernels.elementary import compiled
from .kernels.tile_scores import tile_scores, tile_slopes

if TYPE_CHECKING:
    from .tile_blocks import Rows


def scores(score: str, rows: Rows, out: Tensor | None) -> Tensor:
    """s_ij [N, M] in float32, into `out` if given."""
    n, m, width = rows.shape
    out = rows.x[0].new_empty(n, m) if out is None else out
    form, unroll = tiles.SUMMED.get(score.partition("/")[0], tiles.SUMMED[""])
    if n and m:
        x, y = _planes(rows.x, form.rows, True), _planes(rows.y, form.cols, True)
        strides = x.stride(0), y.stride(0), x.stride(1), y.stride(1), out.stride(0)
        args = (x, y, rows.term_x, rows.term_y, out, *strides, n, m, width)
        constants = {
            "VALUE": compiled(_tile(score).value), "BLOCK_M": form.rows, "BLOCK_N": form.cols,
            "SPAN": tiles.SPAN, "UNROLL": unroll,
        }  # fmt: skip
        tiles.launch(tile_scores, -(-n // form.rows) * -(-m // form.cols), args, constants, form)
    return out


def slopes(score: str, rows: Rows, grad: Tensor, side: str) -> tuple[Tensor, Tensor]:
    """sum over the other side of grad [N, M] * df by (mean, logvar) of `side`, in float32."""
    tile, swapped = _tile(score), side == "y"
    parts = (rows.y, rows.x) if swapped else (rows.x, rows.y)
    (n, width), m = parts[0][0].shape, len(parts[1][0])
    form, unroll = tiles.SLOPES
    padded = up(width, form.cols)
    made = [parts[0][0].new_empty(n, padded) if n and m else parts[0][0].new_zeros(n, padded) for _ in range(2)]
    if n and m and width:
        own, other = (_planes(side, form.cols, False) for side in parts)
        steps = (grad.stride(1), grad.stride(0)) if swapped else (grad.stride(0), grad.stride(1))
        args = (own, other, grad, *made, own.stride(0), other.stride(0), padded, *steps, n, m, width)
        constants = {
            "SLOPE": compiled(tile.slope_y if swapped else tile.slope_x), "SWAPPED": swapped, "BLOCK_M": form.rows,
            "BLOCK_D": form.cols, "SPAN": tiles.SPAN, "UNROLL": unroll,
        }  # fmt: skip
        tiles.launch(tile_slopes, -(-n // form.rows) * (padded // form.cols), args, constants, form)
    d_mean, d_logvar = (t if padded == width else t[:, :width].contiguous() for t in made)
    return d_mean, d_logvar


def _tile(score: str) -> Tile:
    tile = SCORES[score].tile
    assert tile is not None
    return tile


def _planes(parts: Parts, unit: int, transposed: bool) -> Tensor:
    """[3, N, D], or [3, D, N], the last dimension padded to whole units with ones: finite, and dropped."""
    height, breadth = parts[0].shape[::-1] if transposed else parts[0].shape
    planes = parts[0].new_empty(3, height, up(breadth, unit))
    planes[..., breadth:] = 1.0
    for plane, part in zip(planes, parts, strict=True):
        plane[:, :breadth] = part.T if transposed else part
    return planes
