"""What a score is: a formula per dimension, and the matrix product or the sum over dimensions that computes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from ..gaussian import Gaussian

Parts = tuple[Tensor, ...]
"""What an elementwise score reads of a row in each dimension: one to three tensors [N, D]."""


class Factor(NamedTuple):
    """One side of a bilinear score, s_ij = phi_x_i . phi_y_j + offset_x_i + offset_y_j."""

    phi: Tensor
    """[N, K] in the dtype of the mean."""
    offset: Tensor | None
    """[N] in float32 (float64 for float64 inputs), None where the score has none."""


@dataclass(frozen=True)
class Elementwise:
    """s_ij = sum_d f(x_id, y_jd) + logvar_x sum_d lx_id + logvar_y sum_d ly_jd.

    parts_x, parts_y: (mean, logvar), float32 or float64, -> what `value` and the gradients read of a row: exponentials belong
        here.
    value(xa, xb, xc, ya, yb, yc) -> f; gradient_x and gradient_y, the same arguments -> (df/dmean, df/dlogvar) of their side.
        The parts broadcast against each other; a side with fewer than three repeats its first. Written in plain arithmetic and
        the functions of `scores.elementwise` alone, the same source runs in torch and is compiled by Triton.
    mean_scale: means are multiplied by this before anything else.
    compiles: whether value and gradients are such source; False keeps them in torch.
    light: so few numbers live at once in `value` that two programs share a GPU's processor.
    """

    parts_x: Callable[[Tensor, Tensor], Parts]
    parts_y: Callable[[Tensor, Tensor], Parts]
    value: Callable[..., Any]
    gradient_x: Callable[..., Any]
    gradient_y: Callable[..., Any]
    logvar_x: float = 0.0
    logvar_y: float = 0.0
    mean_scale: float = 1.0
    compiles: bool = True
    light: bool = False


@dataclass(frozen=True)
class Score:
    """s(x, y) = sum_d f(x_d, y_d), higher means more alike.

    formula: f for Gaussians that broadcast against each other, one value per dimension; short and literal, it is the truth
        that every faster form is tested against. It is all that a score of your own needs.
    factor_x, factor_y: both sides as a `Factor`, of bilinear scores; elementwise: of all others. Without either, sums and
        gradients over dimensions are derived from the formula.
    uses_logvar: False takes bare tensors of means too.
    """

    name: str
    formula: Callable[[Gaussian, Gaussian], Tensor]
    factor_x: Callable[[Gaussian], Factor] | None = None
    factor_y: Callable[[Gaussian], Factor] | None = None
    elementwise: Elementwise | None = None
    uses_logvar: bool = True
