"""What a score is: a formula per dimension, and the lift (a matrix product) or tile (a sum over dimensions) that computes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from ..gaussian import Gaussian

Parts = tuple[Tensor, ...]
"""What a tile knows of a row in each dimension: one to three tensors [N, D]."""


class Lift(NamedTuple):
    """One side of s_ij = phi_x_i . phi_y_j + offset_x_i + offset_y_j."""

    phi: Tensor
    """[N, K] in the dtype of the mean."""
    offset: Tensor | None
    """[N] in float32 (float64 for float64 inputs), None where the score has none."""


@dataclass(frozen=True)
class Tile:
    """s_ij = sum_d f(x_id, y_jd) + logvar_x sum_d lx_id + logvar_y sum_d ly_jd.

    parts_x, parts_y: (mean, logvar), float32 or float64, -> what `value` and the slopes see of a row: exponentials belong here.
    value(xa, xb, xc, ya, yb, yc) -> f, slope_x and slope_y the same -> (df/dmean, df/dlogvar) of their side, for parts that
    broadcast against each other; a side with fewer parts repeats its first. Plain arithmetic and `elementary` functions alone:
    the same source runs in torch and is compiled by Triton.
    mean_scale: means are multiplied by this before anything else.
    """

    parts_x: Callable[[Tensor, Tensor], Parts]
    parts_y: Callable[[Tensor, Tensor], Parts]
    value: Callable[..., Any]
    slope_x: Callable[..., Any]
    slope_y: Callable[..., Any]
    logvar_x: float = 0.0
    logvar_y: float = 0.0
    mean_scale: float = 1.0


@dataclass(frozen=True)
class Score:
    """s(x, y) = sum_d f(x_d, y_d), higher means more alike.

    formula: f for Gaussians that broadcast against each other, one value per dimension; short and literal, it is the truth
        that every faster form is tested against.
    lift_x, lift_y: both sides as a `Lift`, for scores that are matrix products; tile: for all others.
    """

    name: str
    formula: Callable[[Gaussian, Gaussian], Tensor]
    lift_x: Callable[[Gaussian], Lift] | None = None
    lift_y: Callable[[Gaussian], Lift] | None = None
    tile: Tile | None = None
    uses_logvar: bool = True
