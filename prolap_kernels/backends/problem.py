"""The engine of pairs: its inputs, options and results, the same for every backend."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..objectives import NAMED as OBJECTIVES
from ..objectives import Objective
from ..scores import NAMED as SCORES
from ..scores import Score


class PairProblem(NamedTuple):
    """Inputs: N x M pairs with the logits scale s + bias.

    A bilinear score is s_ij = phi_x_i . phi_y_j + alpha_i + beta_j: phi_x [N, K], phi_y [M, K]; alpha [N], beta [M], size 0 for
    none. For an elementwise score phi_x and phi_y are the means and logvar_x [N, D], logvar_y [M, D] the log-variances.
    scale, bias: 0-d, with alpha and beta in the dtype of the sums; x_id [N], y_id [M] int64; row_weight [N] weighs the rows in
    the gradients, size 0 for ones.
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
    logvar_x: Tensor | None = None
    logvar_y: Tensor | None = None


class PairOptions(NamedTuple):
    """All options of a loss of pairs, as flat as the raw op takes them.

    score_name, objective_name: names that `score` and `objective` look up; ids_given: False for the default ids, row i with row i
    and none ignored; precision: of float32 products on a GPU; need_x, need_y, need_sums: which `PairSums` to compute.
    """

    score_name: str
    objective_name: str
    backend: str
    negatives_only: bool
    ids_given: bool
    precision: str
    stats: bool
    need_x: bool
    need_y: bool
    need_sums: bool

    @property
    def score(self) -> Score:
        return SCORES[self.score_name]

    @property
    def objective(self) -> Objective:
        return OBJECTIVES[self.objective_name]

    @property
    def grads(self) -> bool:
        return self.need_x or self.need_y or self.need_sums


class PairSums(NamedTuple):
    """Results of a pass over pairs; those that the options do not need have size 0.

    loss [N] per row of x ([1] where the objective averages). With g = row_weight * dL/dlogit:
    dphi_x = sum_j g phi_y_j [N, K] and dphi_y = sum_i g phi_x_i [M, K], both still without the factor `scale`;
    row = sum_j g [N], col = sum_i g [M], dot = sum_j g s [N]. An elementwise score has g ds/dmean instead of g phi, and
    g ds/dlogvar in dlogvar_x [N, D], dlogvar_y [M, D].
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

    @classmethod
    def empty(cls, problem: PairProblem, options: PairOptions) -> PairSums:
        """Unwritten memory for the results that the options need, in the dtype of the sums."""

        def new(needed: bool, *shape: int) -> Tensor:
            return problem.scale.new_empty(shape if needed else 0)

        n, m = problem.phi_x.shape[0], problem.phi_y.shape[0]
        need_x, need_y, need_sums = options.need_x, options.need_y, options.need_sums
        elementwise = options.score.elementwise is not None
        return cls(
            new(True, 1 if options.objective.averages else n),
            new(need_x, *problem.phi_x.shape),
            new(need_y, *problem.phi_y.shape),
            new(need_sums, n),
            new(need_sums, m),
            new(need_sums, n),
            new(need_x and elementwise, *problem.phi_x.shape),
            new(need_y and elementwise, *problem.phi_y.shape),
            new(options.stats, 4, n),
        )

    def zero_(self) -> None:
        for t in self:
            t.zero_()


Launcher = Callable[[PairProblem, PairOptions, PairSums, bool], None]
"""The block primitive: (problem, options, sums, fresh) adds the results of a problem to `sums`, or overwrites them if fresh."""


_precision_lock = threading.RLock()


@contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """Sets the precision of float32 matrix products on a GPU, and restores torch's setting afterwards.

    The setting is the process's: it is left alone where it is right already, and one thread at a time changes it.
    """
    matmul: Any = torch.backends.cuda.matmul
    named = hasattr(matmul, "fp32_precision")
    with _precision_lock:
        tf32 = matmul.fp32_precision == "tf32" if named else matmul.allow_tf32
        if tf32 == (precision == "tf32"):
            yield
            return
        restore = _set_precision(precision, named)
        try:
            yield
        finally:
            restore()


def _set_precision(precision: str, named: bool) -> Callable[[], None]:
    """Sets it and returns what restores it. By the older names where these can be read: set by the newer ones alone, they would
    raise in every thread that reads them."""
    backends: Any = torch.backends
    matmul = backends.cuda.matmul
    newer = [(each, each.fp32_precision) for each in (matmul, backends.mkldnn.matmul)] if named else []
    try:
        level = torch.get_float32_matmul_precision()
    except RuntimeError:
        level = ""
        matmul.fp32_precision = precision
    else:
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")

    def restore() -> None:
        if level:
            torch.set_float32_matmul_precision(level)
        for backend, value in newer:
            backend.fp32_precision = value

    return restore
