"""What must hold on a device before its speed matters: exact results, the same bits twice, no races."""

from __future__ import annotations

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
from .correctness import check, errors
from .eager import eager
from .measure import brief
from .peers import OURS, PEERS
from .records import ROOT, Row
from .session import Session
from .truth import Results, results, truth

LOSS_SCALE = 2.0**24
"""Of the probe with tiny gradients: what a loss scaler multiplies by, without which float16 could not hold the result."""
DTYPES = ("bfloat16", "float16", "float32")
SHARE = 0.6
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
        if session.spent(SHARE * session.budget):
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
