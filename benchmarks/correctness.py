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
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from prolap_kernels import pairwise_score
from prolap_kernels.backends import pick_backend

from .cases import DIAGONAL, ELEMENTWISE, MATRIX, Batch, Case, Loss, Shape, cases, make_batch, ours
from .measure import brief
from .peers import LIMIT, OURS, PEERS, Peer, eager
from .records import ROOT, Row
from .session import Session
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


LOSS_SCALE = 2.0**24
"""Of the probe with tiny gradients: what a loss scaler multiplies by, without which float16 could not hold the result."""
DTYPES = ("bfloat16", "float16", "float32")
BUDGET_SHARE = 0.6
"""Of the budget is left to the other sections."""


class Probe(NamedTuple):
    """A batch that a careless kernel gets wrong; elements: N M D up to which it runs."""

    name: str
    change: Callable[[Batch], None]
    cases: tuple[str, ...]
    loss_scale: float = 1.0
    elements: float = math.inf


def _wide(batch: Batch) -> None:
    """Logits from -80 to 80."""
    batch.scale.fill_(1.0)
    if batch.bias is not None:
        batch.bias.fill_(0.0)
    for z, most in ((batch.x, 8.0), (batch.y, 10.0)):
        z.mean.mul_(0.05)[:, 0] = torch.linspace(-most, most, len(z.mean), device=z.mean.device).to(z.mean)


def _tiny(batch: Batch) -> None:
    """Gradients of negatives around e^-20, which float16 cannot hold unscaled."""
    assert batch.bias is not None
    batch.bias.fill_(-20.0)


def _frozen(batch: Batch) -> None:
    batch.x.mean.requires_grad_(False)


PROBES = (
    Probe("as in training", lambda batch: None, ("csd-sigmoid", "csd-sigmoid-ids", "csd-sigmoid-negatives", "dot-softmax",
                                                 "csd-softmax-ids", "csd_distance-sigmoid", "wasserstein2-sigmoid")),
    Probe("logits -80..80", _wide, ("dot-sigmoid", "dot-sigmoid-ids", "dot-softmax", "dot-softmax-ids")),
    Probe("tiny gradients", _tiny, ("dot-sigmoid-negatives",), LOSS_SCALE),
    Probe("x frozen", _frozen, ("csd-sigmoid", "dot-softmax")),
    Probe("elementwise", lambda batch: None, tuple(Case(name, MATRIX, DIAGONAL).name for name in ELEMENTWISE),
          elements=1 << 26),
)  # fmt: skip


def correctness(session: Session) -> None:
    """Every probe in every dtype and shape against float64, each twice for the same bits; padding that holds NaN last."""
    every = [(dtype, shape, probe, name) for dtype in DTYPES for shape in session.plan.probes for probe in PROBES
             for name in probe.cases if math.prod(shape) <= probe.elements]  # fmt: skip
    for done, (dtype, shape, probe, name) in enumerate(every):
        if session.spent(BUDGET_SHARE * session.budget):
            session.skip("correctness", f"{len(every) - done} of {len(every)} probes: ")
            break
        row: Row = {"probe": probe.name, "case": name, "shape": shape, "dtype": dtype}
        _record(session, row, lambda row, p=probe, n=name, s=shape, d=dtype: _probed(session, row, p, n, s, d))
    for dtype in DTYPES:
        row = {"probe": "NaN in ignored rows", "case": "csd-sigmoid-ids", "dtype": dtype}
        _record(session, row, lambda row: _padded(session, row["case"], row["dtype"]))


def _record(session: Session, row: Row, probed: Callable[[Row], str]) -> None:
    """Adds the row with what `probed` says is wrong, or with what it raised."""
    try:
        wrong = probed(row)
    except Exception as error:
        wrong = brief(error)
    if wrong:
        row["failed"] = wrong
    session.add("correctness", row, " ".join(map(str, ["FAILED", *row.values()])) if wrong else "")
    if len(session.rows("correctness")) % 20 == 0:
        print(f"{len(session.rows('correctness'))} results compared with float64", flush=True)


def _probed(session: Session, row: Row, probe: Probe, name: str, shape: Shape, dtype: str) -> str:
    case = cases()[name]
    batch = make_batch(case, shape, session.plan.device, getattr(torch, dtype))
    if not case.is_matrix:
        row["backend"] = pick_backend(None, batch.x.mean.device, batch.x.mean.dtype)
    with torch.no_grad():
        probe.change(batch)
    loss, exact = _scaled(ours(), probe.loss_scale), truth(batch, probe.loss_scale)
    dense = None if case.is_matrix else errors(results(_scaled(eager, probe.loss_scale), batch), exact)
    verdict = check(PEERS[OURS], loss, batch, exact, dense)
    row["errors"] = verdict.errors
    if verdict.why:
        return verdict.why
    if not _same(results(loss, batch), results(loss, batch)):
        return "two runs differ in their bits"
    if case.is_matrix and case.score == "inclusion":
        there, back = (pairwise_score(a, b, score=case.score) for a, b in ((batch.x, batch.y), (batch.y, batch.x)))
        return "" if torch.equal(there, -back.T) else "H(x in y) is not -H(y in x) to the last bit"
    return ""


def _padded(session: Session, name: str, dtype: str) -> str:
    batch = make_batch(cases()[name], session.plan.probes[0], session.plan.device, getattr(torch, dtype))
    clean = results(ours(), batch)
    with torch.no_grad():
        batch.x.mean[batch.x_id < 0] = float("nan")
    return "" if _same(clean, results(ours(), batch)) else "the result changes with what ignored rows hold"


def _scaled(loss: Loss, factor: float) -> Loss:
    return lambda batch: loss(batch) * factor


def _same(a: Results, b: Results) -> bool:
    return all((p is None and q is None) or (p is not None and q is not None and torch.equal(p, q))
               for p, q in zip(a.values(), b.values(), strict=True))  # fmt: skip


def sanitizer(session: Session) -> None:
    """`compute-sanitizer` over one small call; racecheck sees shared memory only, memcheck every access."""
    tool = shutil.which("compute-sanitizer")
    if tool is None or session.dry:
        why = "a dry run" if session.dry else "compute-sanitizer is not on PATH"
        session.add("sanitizer", {"absent": why}, f"absent: {why}")
        return
    for kind in ("racecheck", "memcheck"):
        for name in ("csd-sigmoid-ids", "dot-softmax"):
            if session.spent(45):
                session.add("sanitizer", {"tool": kind, "case": name, "skipped": "the time budget is spent"})
                continue
            row = _sanitized(tool, kind, name, min(120.0, session.left() - 15))
            session.add("sanitizer", row, f"{kind} {name} {row.get('summary', row.get('skipped'))}")


def _sanitized(tool: str, kind: str, case: str, limit: float) -> Row:
    start = time.monotonic()
    command = [tool, "--tool", kind, "--error-exitcode", "9", sys.executable, "-m", "benchmarks.profile", case, "--bare",
               "--device", "cuda", "--dtype", "bfloat16", "--shape", "300", "200", "96"]  # fmt: skip
    # the caching allocator would hide an access beyond a tensor's end
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    row: Row = {"tool": kind, "case": case}
    try:
        run = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=limit, check=False
        )
        lines = [line for line in run.stdout.splitlines() if "SUMMARY" in line]
        row["exit"] = run.returncode
        row["summary"] = lines[-1].strip("= ") if lines else (run.stdout + run.stderr)[-300:]
    except subprocess.TimeoutExpired:
        row["skipped"] = f"not done after {limit:.0f} s"
    row["seconds"] = round(time.monotonic() - start, 1)
    return row
