"""No time is reported from a wrong result: loss and gradients are compared with float64 before anything is timed.

Errors are ||value - truth|| / ||truth|| (of a scalar by the loss, if that is larger: gradients by scale and bias are sums that
cancel). Ours may err MARGIN times as much as dense eager torch does in the same dtype, plus the rounding of the result, and
never by SAME_FUNCTION, which eager float16 may. The matrix of an elementwise score, a sum that may cancel, is held entry by entry
to SHARE of the sum of its absolute terms, gradients to that of their absolute contributions. Of others it is only asked that they
compute the same function: how exact they are is a figure of its own.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch

from .cases import Batch, Case, Loss, Shape, make_batch
from .eager import eager
from .peers import LIMIT, OURS, Peer
from .truth import Results, pick, results, sizes, truth

MARGIN = 2.0
ROUNDING = 4.0
"""Units in the last place of the result's dtype."""
SAME_FUNCTION = 0.05
SHARE = 1e-6
"""Of the absolute terms: what float32 may err by in elementwise scores."""
EAGER_ROWS = 1024
"""Rows at which eager's own error is taken where a batch is larger: relative errors hardly depend on the size."""
EAGER_CELLS = 1 << 23
"""N x M x D at which that is done for elementwise scores."""


class Verdict(NamedTuple):
    """errors by quantity; why is empty if the result may be timed."""

    errors: dict[str, float]
    why: str

    @property
    def worst(self) -> float:
        return max(self.errors.values(), default=math.nan)


def errors(values: Results, exact: Results) -> dict[str, float]:
    """By quantity; a non-finite one, or a missing one that is not zero, is infinitely wrong. Frozen on both sides: left out."""
    assert exact["loss"] is not None
    loss = float(exact["loss"].norm())
    result = {}
    for name, right in exact.items():
        value = values[name]
        if value is None:
            if right is not None:
                result[name] = math.inf if bool(right.any()) else 0.0
            continue
        right = torch.zeros_like(value, dtype=torch.float64) if right is None else right
        if value.shape != right.shape or not bool(value.isfinite().all()):
            result[name] = math.inf
            continue
        size = max(float(right.abs()), loss) if right.numel() == 1 else float(right.norm())
        off = float((value.double() - right).norm())
        result[name] = off / size if size else math.inf if off else 0.0
    return result


@functools.cache
def _eager_errors(case: Case, shape: Shape, device: str, dtype: torch.dtype) -> dict[str, float]:
    batch = make_batch(case, shape, device, dtype)
    return errors(results(eager, batch), truth(batch))


def _eager_at(batch: Batch) -> dict[str, float]:
    n, m, d = batch.shape
    rows = EAGER_ROWS
    if batch.case.is_elementwise:
        rows = min(EAGER_ROWS, max(1, math.isqrt(EAGER_CELLS // d)))
    shape = (min(n, rows), min(m, rows), d)
    return _eager_errors(batch.case, shape, batch.x.mean.device.type, batch.x.mean.dtype)


def check(peer: Peer, loss: Loss, batch: Batch, exact: Results, dense: dict[str, float] | None = None) -> Verdict:
    """Whether a time of `loss` on `batch` would mean anything; `dense`: what eager torch errs by, if not to be measured."""
    if peer.name == LIMIT:
        return Verdict({}, "")
    values = results(loss, batch)
    if batch.case.is_elementwise:
        values = pick(values, batch)
    assert values["loss"] is not None
    assert exact["loss"] is not None
    if values["loss"].dim() < exact["loss"].dim() and batch.weights is not None:
        weights = pick({"loss": batch.weights.dense}, batch)["loss"]
        assert weights is not None
        exact = exact | {"loss": (exact["loss"] * weights).sum(1)}
    wrong_by = {name: error for name, error in errors(values, exact).items() if name not in peer.lacks}
    if peer.name == OURS and batch.case.is_matrix:
        return Verdict(wrong_by, beyond(values, exact, batch))
    allowed = dict.fromkeys(wrong_by, SAME_FUNCTION)
    if peer.name == OURS:
        dense = _eager_at(batch) if dense is None else dense
        for name in wrong_by:
            value = values[name]
            eps = 0.0 if value is None else torch.finfo(value.dtype).eps
            allowed[name] = min(MARGIN * dense[name] + ROUNDING * eps, SAME_FUNCTION)
    wrong = [
        f"{name} errs by {error:.1e} (allowed {allowed[name]:.1e})"
        for name, error in wrong_by.items()
        if not error <= allowed[name]
    ]
    return Verdict(wrong_by, "; ".join(wrong))


def beyond(values: Results, exact: Results, batch: Batch) -> str:
    """Which entries of an elementwise matrix and of its gradients err by more than their condition allows, as a sentence."""
    wrong = []
    for name, size in sizes(batch.double()).items():
        value, right = values[name], exact[name]
        if value is None:
            wrong.append(f"{name} is missing")
            continue
        right = torch.zeros_like(size) if right is None else right
        share = max(SHARE, 2 * torch.finfo(value.dtype).eps)  # a result of 16 bits is rounded once more
        off = (value.double() - right).abs()
        if not bool((off <= share * size).all()):
            worst = float((off / size).nan_to_num(math.inf).max())
            wrong.append(f"{name} errs by {worst:.1e} of its absolute terms (allowed {share:.0e})")
    return "; ".join(wrong)
