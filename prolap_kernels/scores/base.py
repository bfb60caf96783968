"""What a score is: a formula per dimension and, where one exists, a lift that turns it into a matrix product."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from ..gaussian import Gaussian


class Lift(NamedTuple):
    """One side of s_ij = phi_x_i . phi_y_j + offset_x_i + offset_y_j."""

    phi: Tensor
    """[N, K] in the dtype of the mean."""
    offset: Tensor | None
    """[N] in float32 (float64 for float64 inputs), None where the score has none."""


@dataclass(frozen=True)
class Score:
    """s(x, y) = sum_d f(x_d, y_d), higher means more alike.

    formula: f for Gaussians that broadcast against each other, one value per dimension; short and literal, it is the truth
        that every faster form is tested against.
    lift_x, lift_y: both sides as a `Lift`, or None for scores that are not matrix products (tiles).
    """

    name: str
    formula: Callable[[Gaussian, Gaussian], Tensor]
    lift_x: Callable[[Gaussian], Lift] | None = None
    lift_y: Callable[[Gaussian], Lift] | None = None
    uses_logvar: bool = True
