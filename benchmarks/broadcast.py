"""Scores that are tiles, as a sum over an N x M x D that broadcasts: the formula of this package's engine in plain torch."""

from __future__ import annotations

from torch import Tensor

from prolap_kernels import Gaussian
from prolap_kernels.gaussian import widen
from prolap_kernels.scores import Score


def tile_scores(rule: Score, x: Gaussian, y: Gaussian) -> Tensor:
    """s_ij = sum_d f(x_id, y_jd), [N, M], exponentials taken of the rows, gradients by autograd."""
    tile = rule.tile
    assert tile is not None
    x, y = (Gaussian(tile.mean_scale * widen(z.mean), widen(z.logvar)) for z in (x, y))
    left = [part[:, None] for part in _three(tile.parts_x(*x))]
    right = [part[None] for part in _three(tile.parts_y(*y))]
    score: Tensor = tile.value(*left, *right).sum(-1)
    if tile.logvar_x and tile.logvar_x == -tile.logvar_y:  # their difference keeps digits that two sums would not
        score = score + tile.logvar_y * _difference(x.logvar, y.logvar)
    elif tile.logvar_x or tile.logvar_y:
        score = score + tile.logvar_x * x.logvar.sum(1)[:, None] + tile.logvar_y * y.logvar.sum(1)
    return score


def _three(parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (*parts, parts[0], parts[0])[:3]


def _difference(a: Tensor, b: Tensor) -> Tensor:
    """sum_d (b_jd - a_id)."""
    return (b.double().sum(1) - a.double().sum(1)[:, None]).to(a.dtype)
