"""What the pair engine is asked and what it answers, whichever backend works it out."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ..pairs import SATURATED

__all__ = ["SATURATED", "PairOptions", "PairProblem", "PairSums"]


class PairProblem(NamedTuple):
    """logit = scale s + bias on N x M pairs; a lift's score is s_ij = phi_x_i . phi_y_j + alpha_i + beta_j.

    phi_x [N, K], phi_y [M, K]; alpha [N], beta [M] (size 0: none), scale, bias 0-d, in the dtype of the sums;
    x_id [N], y_id [M] int64; row_weight [N] weighs the rows in the gradients (size 0: all ones).
    A tile's phi are the means and its alpha, beta the log-variances, [N, D] and [M, D].
    """

    phi_x: Tensor
    phi_y: Tensor
    alpha: Tensor
    beta: Tensor
    scale: Tensor
    bias: Tensor
    x_id: Tensor
    y_id: Tensor
    row_weight: Tensor


class PairOptions(NamedTuple):
    """ids_given False: the ids are those of the diagonal, nothing is ignored. precision: of float32 products on a GPU.
    score: the name of a tile, "" for a lift, whose score is in phi; backend: who sums a tile's dimensions."""

    objective: str
    negatives_only: bool
    ids_given: bool
    precision: str
    stats: bool
    need_x: bool
    need_y: bool
    need_sums: bool
    score: str = ""
    backend: str = "chunked"

    @property
    def grads(self) -> bool:
        return self.need_x or self.need_y or self.need_sums


class PairSums(NamedTuple):
    """What one pass yields; tensors that were not asked for have size 0.

    loss [N] per row of x ([1] where the objective is no sum over rows). With g = row_weight * dL/dlogit:
    dphi_x = sum_j g phi_y_j [N, K] and dphi_y = sum_i g phi_x_i [M, K], both still without the factor `scale`;
    row = sum_j g [N], col = sum_i g [M], dot = sum_j g s [N]. For a tile, g ds/dmean in place of g phi, and the same by the
    log-variances in dlogvar_x [N, D], dlogvar_y [M, D].
    stats [4, N], sums over the counted pairs of a row: logits of the positives, logits of the negatives, number of
    saturated positives, of saturated negatives.
    """

    loss: Tensor
    dphi_x: Tensor
    dphi_y: Tensor
    row: Tensor
    col: Tensor
    dot: Tensor
    dlogvar_x: Tensor
    dlogvar_y: Tensor
    stats: Tensor
