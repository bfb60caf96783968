"""No time is reported from a wrong result: loss and gradients against float64 before anything is timed.

Errors are ||got - truth|| / ||truth|| (of a scalar by the loss, if that is larger: gradients by scale and bias are sums that
cancel). Ours may err MARGIN times as much as dense eager torch does in the same dtype, plus the rounding of the result, and
never by SAME_FUNCTION, which eager float16 may. The matrix of a tile, a sum that may cancel, is held entry by entry to SHARE of
the sum of its absolute terms, gradients to that of their absolute contributions. Of others it is only asked that they compute the
same function: how exact they are is a figure of its own.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from .cases import Batch, Case, make_batch, ours
from .conditioning import pick, sizes, strip_results
from .peers import LIMIT, OURS, Loss, Peer, dense_loss, eager

MARGIN = 2.0
ROUNDING = 4.0
"""Units in the last place of the result's dtype."""
SAME_FUNCTION = 0.05
SHARE = 1e-6
"""Of the absolute terms: what float32 may err by (SPEC: scores that are tiles)."""
LITERAL_CELLS, DENSE_CELLS = 1 << 25, 1 << 26
"""The truth in float64: the reference up to so many N x M x D, dense eager torch up to so many N x M (tests hold the two
together), beyond it the chunked backend; of tiles the literal formula in strips, of large ones on some rows."""
EAGER_ROWS = 1024
"""Rows at which eager's own error is taken where a batch is larger: relative errors hardly depend on the size."""


EAGER_CELLS = 1 << 23
"""N x M x D at which that is done for tiles."""


class Verdict(NamedTuple):
    """errors by quantity; why is empty if the result may be timed."""

    errors: dict[str, float]
    why: str

    @property
    def worst(self) -> float:
        return max(self.errors.values(), default=math.nan)


def train(loss: Loss, batch: Batch) -> Tensor:
    """One call forward and, where something learns, backward; returns the value."""
    value = loss(batch)
    if value.requires_grad:
        value.backward(batch.upstream(value))
    return value.detach()


def results(loss: Loss, batch: Batch) -> dict[str, Tensor | None]:
    """The loss and the gradient of every leaf."""
    batch.clear()
    found: dict[str, Tensor | None] = {"loss": train(loss, batch)}
    found |= {name: leaf.grad for name, leaf in batch.leaves.items()}
    batch.clear()
    return found


def truth(batch: Batch, factor: float = 1.0) -> dict[str, Tensor | None]:
    """`results` in float64, of the loss times `factor`."""
    n, (m, d) = len(batch.x.mean), batch.y.mean.shape
    if batch.case.is_tile and n * m * d > LITERAL_CELLS:
        return strip_results(batch.double(), lambda b, score: dense_loss(b, score) * factor)
    loss = ours("reference") if n * m * d <= LITERAL_CELLS else eager if n * m <= DENSE_CELLS else ours("chunked")
    return results(lambda b: loss(b) * factor, batch.double())


def errors(got: dict[str, Tensor | None], want: dict[str, Tensor | None]) -> dict[str, float]:
    """By quantity; a non-finite one, or a missing one that is not zero, is infinitely wrong."""
    assert want["loss"] is not None
    loss = float(want["loss"].norm())
    found = {}
    for name, right in want.items():
        value = got[name]
        if right is None and value is None:
            continue  # frozen
        if value is None and right is not None:
            if bool(right.any()):
                found[name] = math.inf
                continue
            value = torch.zeros_like(right)
        if right is None and value is not None:
            right = torch.zeros_like(value, dtype=torch.float64)
        assert value is not None
        assert right is not None
        if value.shape != right.shape or not bool(value.isfinite().all()):
            found[name] = math.inf
            continue
        size = max(float(right.abs()), loss) if right.numel() == 1 else float(right.norm())
        off = float((value.double() - right).norm())
        found[name] = off / size if size else math.inf if off else 0.0
    return found


@functools.cache
def _eager_errors(case: Case, shape: tuple[int, int, int], device: str, dtype: torch.dtype) -> dict[str, float]:
    batch = make_batch(case, shape, device, dtype)
    return errors(results(eager, batch), truth(batch))


def check(
    peer: Peer, loss: Loss, batch: Batch, want: dict[str, Tensor | None], dense: dict[str, float] | None = None
) -> Verdict:
    """Whether a time of `loss` on `batch` would mean anything; `dense`: what eager torch errs by, if not to be measured."""
    if peer.name == LIMIT:
        return Verdict({}, "")
    got = results(loss, batch)
    if batch.case.is_tile:
        got = pick(got, batch)
    assert got["loss"] is not None
    assert want["loss"] is not None
    if got["loss"].dim() < want["loss"].dim() and batch.weights is not None:
        weights = pick({"loss": batch.weights.dense}, batch)["loss"]
        assert weights is not None
        want = want | {"loss": (want["loss"] * weights).sum(1)}
    found = {name: e for name, e in errors(got, want).items() if name not in peer.lacks}
    bars = dict.fromkeys(found, SAME_FUNCTION)
    if peer.name == OURS and batch.case.is_matrix:
        return Verdict(found, beyond(got, want, batch))
    if peer.name == OURS:
        dense = _eager_at(batch) if dense is None else dense
        for name in found:
            value = got[name]
            eps = 0.0 if value is None else torch.finfo(value.dtype).eps
            bars[name] = min(MARGIN * dense[name] + ROUNDING * eps, SAME_FUNCTION)
    wrong = [f"{name} errs by {e:.1e} (allowed {bars[name]:.1e})" for name, e in found.items() if not e <= bars[name]]
    return Verdict(found, "; ".join(wrong))


def beyond(got: dict[str, Tensor | None], want: dict[str, Tensor | None], batch: Batch) -> str:
    """Which entries of a tile's matrix and of its gradients err by more than their condition allows, as a sentence."""
    wrong = []
    for name, size in sizes(batch.double()).items():
        value, right = got[name], want[name]
        if value is None:
            wrong.append(f"{name} is missing")
            continue
        right = torch.zeros_like(size) if right is None else right
        share = max(SHARE, 2 * torch.finfo(value.dtype).eps)  # a result of 16 bits is rounded once more
        off = (value.double() - right).abs() - share * size
        if not bool((off <= 0).all()):
            worst = float(((value.double() - right).abs() / size).nan_to_num(math.inf).max())
            wrong.append(f"{name} errs by {worst:.1e} of its absolute terms (allowed {share:.0e})")
    return "; ".join(wrong)


def _eager_at(batch: Batch) -> dict[str, float]:
    (n, d), m = batch.x.mean.shape, len(batch.y.mean)
    rows = min(EAGER_ROWS, max(1, math.isqrt(EAGER_CELLS // d))) if batch.case.is_tile else EAGER_ROWS
    shape = (min(n, rows), min(m, rows), d)
    return _eager_errors(batch.case, shape, batch.x.mean.device.type, batch.x.mean.dtype)
