"""Scores: a formula per dimension, and the matrix product or sum over dimensions that computes it; and their registry."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..checks import as_callable, check_name, register
from ..gaussian import Gaussian

Parts = tuple[Tensor, ...]
"""Parts of a row that an elementwise score reads: one to three tensors [N, D]."""


class Factor(NamedTuple):
    """One side of a bilinear score, s_ij = phi_x_i . phi_y_j + offset_x_i + offset_y_j."""

    phi: Tensor
    """[N, K] in the dtype of the mean."""
    offset: Tensor | None
    """[N] in float32 (float64 for float64 inputs), None where the score has none."""


FactorGradient = Callable[[Gaussian, Any, Any], tuple[Tensor | None, Tensor | None]]
"""(z, gradient by phi [N, K], gradient by the offset [N]) -> the gradients by mean and logvar, [N, D] each. None stands where
nobody asks for a gradient, or where there is none."""


@dataclass(frozen=True)
class Elementwise:
    """s_ij = sum_d f(x_id, y_jd) + logvar_x sum_d lx_id + logvar_y sum_d ly_jd.

    parts_x, parts_y: (mean, logvar), float32 or float64 -> the parts of a row that `value` and the gradients read. Take
        exponentials here, once a row.
    value(xa, xb, xc, ya, yb, yc) -> f; gradient_x and gradient_y, the same arguments -> (df/dmean, df/dlogvar) of their side.
        The parts broadcast against each other; a side with fewer than three repeats its first. Use plain arithmetic and the
        functions of `scores.elementwise` alone: torch runs this source, and Triton compiles it.
    mean_scale: factor of the means, before anything else.
    compiles: whether Triton can compile value and gradients; False keeps them in torch.
    light: whether `value` needs so few registers that two programs share a GPU's processor.
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

    formula: f for Gaussians that broadcast against each other, one value per dimension. A score of your own needs nothing else.
        Keep it short and literal: it is the truth that faster forms are tested against.
    factor_x, factor_y: make a `Factor` of each side, for a bilinear score. Functions of the Gaussian alone: whatever else they
        read gets no gradient.
    gradient_x, gradient_y: derivatives of the factors; derived from them by default.
    elementwise: sums and gradients of any other score; without factors, derived from the formula by default.
    uses_logvar: whether the score needs variances; False takes bare tensors of means too.
    logvar_in_phi, mean_in_offset: whether a factor's phi depends on logvar, and its offset on the mean. Where it does not,
        a frozen mean or logvar saves work.
    """

    name: str
    formula: Callable[[Gaussian, Gaussian], Tensor]
    factor_x: Callable[[Gaussian], Factor] | None = None
    factor_y: Callable[[Gaussian], Factor] | None = None
    gradient_x: FactorGradient | None = None
    gradient_y: FactorGradient | None = None
    elementwise: Elementwise | None = None
    uses_logvar: bool = True
    logvar_in_phi: bool = True
    mean_in_offset: bool = True

    def __post_init__(self) -> None:
        check_name("score.name", self.name)
        as_callable("score.formula", self.formula)
        if self.factor_x is None and self.elementwise is None:
            object.__setattr__(self, "elementwise", derived(self.formula))
        for side in "xy":
            factor = getattr(self, f"factor_{side}")
            if factor is not None and getattr(self, f"gradient_{side}") is None:
                object.__setattr__(self, f"gradient_{side}", derived_gradient(factor))


@functools.cache
def derived_gradient(factor: Callable[[Gaussian], Factor]) -> FactorGradient:
    """A factor's gradients by reverse differentiation."""

    def gradient(z: Gaussian, d_phi: Tensor | None, d_offset: Tensor | None) -> tuple[Tensor, Tensor]:
        def parts(mean: Tensor, logvar: Tensor) -> tuple[Tensor, ...]:
            return tuple(t for t in factor(Gaussian(mean, logvar)) if t is not None)

        out, pull, *_ = torch.func.vjp(parts, *z)
        by_part: tuple[Tensor, Tensor] = pull(
            tuple(
                torch.zeros_like(t) if d is None else d.to(t.dtype)
                for t, d in zip(out, (d_phi, d_offset), strict=False)
            )
        )
        return by_part

    return gradient


@functools.cache
def derived(formula: Callable[[Gaussian, Gaussian], Tensor]) -> Elementwise:
    """A formula's values, and its gradients by reverse differentiation, in plain torch."""

    def parts(mean: Tensor, logvar: Tensor) -> Parts:
        return mean, logvar

    def value(xa: Tensor, xb: Tensor, xc: Tensor, ya: Tensor, yb: Tensor, yc: Tensor) -> Tensor:
        return formula(Gaussian(xa, xb), Gaussian(ya, yb))

    def gradients(*parts: Tensor) -> tuple[Tensor, ...]:
        leaves = torch.broadcast_tensors(parts[0], parts[1], parts[3], parts[4])
        out, pull, *_ = torch.func.vjp(lambda *z: formula(Gaussian(*z[:2]), Gaussian(*z[2:])), *leaves)
        by_part: tuple[Tensor, ...] = pull(torch.ones_like(out))
        return by_part

    return Elementwise(parts, parts, value, lambda *p: gradients(*p)[:2], lambda *p: gradients(*p)[2:], compiles=False)


SCORES: dict[str, Score] = {}
"""What `score=` may name."""
NAMED: dict[str, Score] = {}
"""Where raw ops look a name up: the scores above, and objects handed in, each under a name of its own."""


def register_score(score: Score) -> Score:
    """Let `score=` name this score from now on; returns it.

    Errors: TypeError for anything but a Score, ValueError if another one has its name.
    """
    return register("score", score, Score, SCORES, NAMED)
