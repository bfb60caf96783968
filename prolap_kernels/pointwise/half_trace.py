"""Rows: minus half the trace of the covariance, what a Gaussian's spread takes off its scores."""

from __future__ import annotations

from torch import Tensor

from ..gaussian import widen


def half_trace(logvar: Tensor, need_grad: bool) -> tuple[Tensor, Tensor]:
    """-1/2 sum_d exp(logvar), [N], and the gradient of its sum, [N, D] or size 0."""
    half = -0.5 * widen(logvar).exp()
    return half.sum(-1), half if need_grad else half.new_zeros(0)
