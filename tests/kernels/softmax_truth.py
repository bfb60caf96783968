"""The fused softmax loss held against a float64 truth that keeps small terms."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from prolap_kernels.backends.problem import PairOptions, PairProblem, PairSums
from prolap_kernels.backends.triton import softmax
from tests.kernels.common import pair_sums

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EPS = 2.0**-24
# Relative error of one stored gradient. A GPU rounds to bfloat16, the interpreter cuts off: twice the error.
STORED = {torch.float32: EPS, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8 if DEVICE == "cuda" else 2.0**-7}
DTYPES = list(STORED)
NONE = torch.zeros(0, device=DEVICE)
ALL = PairOptions("dot", "softmax", "chunked", False, True, "ieee", False, True, True, True)


class Truth(NamedTuple):
    """The six outputs, by the definition."""

    loss: Tensor
    dphi_x: Tensor
    dphi_y: Tensor
    row: Tensor
    col: Tensor
    dot: Tensor


def make(
    n: int, m: int, k: int, dtype: torch.dtype, *, ids: int = 6, offsets: bool = True, scale: float = 12.0
) -> PairProblem:
    """Unit rows; ids from -1 to ids - 1, so some are ignored and several agree."""
    draw = torch.Generator().manual_seed(n * 1009 + m * 31 + k)
    x, y = (torch.nn.functional.normalize(torch.randn(rows, k, generator=draw), dim=1) for rows in (n, m))
    x_id, y_id = (torch.randint(-1, ids, (rows,), generator=draw) for rows in (n, m))
    alpha, beta = (-torch.rand(rows, generator=draw) for rows in (n, m)) if offsets else (NONE, NONE)
    tensors = (x.to(dtype), y.to(dtype), alpha, beta, torch.tensor(scale), torch.tensor(0.0), x_id, y_id, NONE)
    return PairProblem(*(t.to(DEVICE) for t in tensors))


def with_ids(case: PairProblem, x_id: list[int] | Tensor, y_id: list[int] | Tensor) -> PairProblem:
    return case._replace(
        x_id=torch.as_tensor(x_id, device=DEVICE, dtype=torch.int64),
        y_id=torch.as_tensor(y_id, device=DEVICE, dtype=torch.int64),
    )


def widened(case: PairProblem) -> PairProblem:
    return PairProblem(*(t.double() if t.is_floating_point() else t for t in case[:9]))


def direction(logit: Tensor, hit: Tensor, counted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(loss of a row, its probabilities, slopes p - y / |P|), all 0 in rows without a positive; 1 - p without cancellation."""
    count = hit.sum(1, keepdim=True)
    alive = count > 0
    masked = logit.masked_fill(~counted, float("-inf"))
    lse = torch.where(alive, masked, 0.0).logsumexp(1, keepdim=True)
    p = torch.where(alive, (masked - lse).exp(), 0.0)
    rest = p.masked_fill(hit, 0.0).sum(1, keepdim=True)
    slope = torch.where(hit & (count == 1), -rest, p - hit.to(p) / count.clamp(min=1))
    matched = torch.where(hit, logit, 0.0).sum(1, keepdim=True) / count.clamp(min=1)
    loss = torch.where(count == 1, -torch.log1p(-rest), lse - matched)
    # where 1 - rest cancels itself the difference of logits is the exact one
    loss = torch.where((count == 1) & (rest < 0.5), loss, lse - matched)
    return torch.where(alive, loss, 0.0), p, torch.where(counted & alive, slope, 0.0)


def evaluate(case: PairProblem, dtype: torch.dtype = torch.float64) -> tuple[Truth, Truth]:
    """The definition, eagerly in `dtype`, and the bounds on what rounding may do to each output."""
    x, y, alpha, beta, scale = (t.to(dtype) for t in case[:5])
    offset = (alpha[:, None] if alpha.numel() else 0.0) + (beta[None, :] if beta.numel() else 0.0)
    s = x @ y.T + offset
    counted = (case.x_id >= 0)[:, None] & (case.y_id >= 0)[None, :]
    hit = (case.x_id[:, None] == case.y_id[None, :]) & counted
    logit = scale * s
    rows, cols = direction(logit, hit, counted), direction(logit.T, hit.T, counted.T)
    w_x, w_y = (0.5 / side.any(1).sum().clamp(min=1).to(dtype) for side in (hit, hit.T))
    g = w_x * rows[2] + w_y * cols[2].T
    loss = (w_x * rows[0].sum() + w_y * cols[0].sum()).reshape(1)
    truth = Truth(loss, g @ y, g.T @ x, g.sum(1), g.sum(0), (g * s).sum(1))

    # Every logit is off by at most `shift`, so every probability by twice that of itself (its own and its sum's), and a slope
    # p - 1/|P| by that of p, or of 1 - p where the positive is the only one; sums add a rounding per term.
    size, stored = sum(case.phi_x.shape) + len(y) + 8, STORED[case.phi_x.dtype]
    reach = x.abs() @ y.abs().T + (offset.abs() if alpha.numel() else 0.0)
    shift = size * EPS * scale.abs() * torch.where(counted, reach, 0.0)
    sides = ((w_x, rows, hit, shift.amax(1, keepdim=True)), (w_y, cols, hit.T, shift.amax(0)[:, None]))
    slips = [
        w
        * (2 * most + size * EPS)
        * torch.where(h.sum(1, keepdim=True) == 1, slope.abs(), torch.maximum(slope.abs(), p))
        for w, (_, p, slope), h, most in sides
    ]
    slip = slips[0] + slips[1].T
    lost = slip + g.abs() * stored
    if case.phi_x.dtype == torch.float16:  # below the smallest subnormal g is lost
        lost = lost + 2.0**-38 * torch.maximum(w_x, w_y) * counted
    pull = shift.amax() * (w_x * rows[2].abs().sum() + w_y * cols[2].abs().sum()) + size * EPS * loss.abs()
    spread = (
        size
        * EPS
        * scale.abs()
        * torch.where(counted, reach, 0.0).amax()
        * ((hit.sum(1) > 1).any() | (hit.sum(0) > 1).any())
    )
    bounds = Truth(
        pull + spread, lost @ y.abs(), lost.T @ x.abs(), slip.sum(1), slip.sum(0),
        (slip * s.abs() + g.abs() * size * EPS * reach).sum(1),
    )  # fmt: skip
    return truth, Truth(*(b + 1e-37 for b in bounds))


def run(case: PairProblem, options: PairOptions = ALL) -> PairSums:
    return pair_sums(softmax.add_pairs, case, options)


def check(case: PairProblem, options: PairOptions = ALL) -> None:
    truth, bounds = evaluate(case)
    for name, got, want, bound in zip(Truth._fields, run(case, options), truth, bounds, strict=False):
        assert got.dtype == torch.float32, name
        assert got.shape == want.shape, name
        excess = ((got.double() - want).abs() / bound).max()
        assert excess <= 1, f"{name}: {excess:.2f} times the bound"
