"""What must hold on a device before its speed matters: exact results, no races, few launches; and what the device can do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from prolap_kernels.backends import pick_backend

from .cases import Batch, Case, cases, make_batch, ours
from .correctness import check, errors, results, truth
from .environment import ROOT
from .gpu import Session
from .measure import brief, seconds, summary
from .peers import OURS, PEERS, Loss, eager

LOSS_SCALE = 2.0**24
"""Of the probe with tiny gradients: what a loss scaler multiplies by, without which float16 could not hold the result."""


class Probe(NamedTuple):
    """A batch that a careless kernel gets wrong."""

    name: str
    change: Callable[[Batch], None]
    cases: tuple[str, ...]
    loss_scale: float = 1.0


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
)  # fmt: skip
DTYPES = ("bfloat16", "float16", "float32")
SHARE = 0.6
"""Of the budget is left to the other sections."""


def correctness(session: Session) -> None:
    """Every probe in every dtype and shape against float64, each twice for the same bits; padding that holds NaN last."""
    everything = [(dtype, shape, probe, name) for dtype in DTYPES for shape in session.plan.probes for probe in PROBES
                  for name in probe.cases]  # fmt: skip
    for done, (dtype, shape, probe, name) in enumerate(everything):
        if session.spent(SHARE * session.budget):
            session.add(
                "correctness", {"skipped": f"{len(everything) - done} of {len(everything)} probes: the time budget"}
            )
            print(f"skipped {len(everything) - done} of {len(everything)} probes: the time budget")
            break
        _probed(session, probe, cases()[name], shape, dtype)
    for dtype in DTYPES:
        _padded(session, dtype)


def _probed(session: Session, probe: Probe, case: Case, shape: tuple[int, int, int], dtype: str) -> None:
    row: dict[str, object] = {"probe": probe.name, "case": case.name, "shape": shape, "dtype": dtype}
    try:
        batch = make_batch(case, shape, session.plan.device, getattr(torch, dtype))
        row["backend"] = pick_backend(None, batch.x.mean.device, batch.x.mean.dtype, case.objective)
        with torch.no_grad():
            probe.change(batch)
        loss, dense = _scaled(ours(), probe.loss_scale), _scaled(eager, probe.loss_scale)
        want = truth(batch, probe.loss_scale)
        verdict = check(PEERS[OURS], loss, batch, want, errors(results(dense, batch), want))
        row["errors"] = verdict.errors
        if verdict.why:
            row["failed"] = verdict.why
        elif not _same(results(loss, batch), results(loss, batch)):
            row["failed"] = "two runs differ in their bits"
    except Exception as error:
        row["failed"] = brief(error)
    _say(session, row)


def _padded(session: Session, dtype: str) -> None:
    """What ignored rows hold must not reach any number."""
    row: dict[str, object] = {"probe": "NaN in ignored rows", "case": "csd-sigmoid-ids", "dtype": dtype}
    try:
        batch = make_batch(
            cases()["csd-sigmoid-ids"], session.plan.probes[0], session.plan.device, getattr(torch, dtype)
        )
        clean = results(ours(), batch)
        with torch.no_grad():
            batch.x.mean[batch.x_id < 0] = float("nan")
        if not _same(clean, results(ours(), batch)):
            row["failed"] = "the result changes with what ignored rows hold"
    except Exception as error:
        row["failed"] = brief(error)
    _say(session, row)


def _say(session: Session, row: dict[str, object]) -> None:
    session.add("correctness", row)
    if "failed" in row:
        where = [row[k] for k in ("probe", "case", "shape", "dtype", "backend") if k in row]
        print("FAILED", *where, row["failed"], flush=True)
    elif len(session.rows("correctness")) % 20 == 0:
        print(f"{len(session.rows('correctness'))} results compared with float64", flush=True)


def _scaled(loss: Loss, factor: float) -> Loss:
    return lambda batch: loss(batch) * factor


def _same(a: dict[str, Tensor | None], b: dict[str, Tensor | None]) -> bool:
    return all((p is None and q is None) or (p is not None and q is not None and torch.equal(p, q))
               for p, q in zip(a.values(), b.values(), strict=True))  # fmt: skip


def ceilings(session: Session) -> None:
    """What the device does at best: bytes per second of a copy (read and written), products of large 16-bit matrices."""
    device, dry = session.plan.device, session.dry
    source = torch.randn(1 << (12 if dry else 29), device=device)
    target = torch.empty_like(source)
    side = 64 if dry else 8192
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    for name, work, amount in (("copy, bytes/s", lambda: target.copy_(source), 2 * source.nbytes),
                               ("bfloat16 product, flops/s", lambda: a @ b, 2 * side**3)):  # fmt: skip
        times = [seconds(work, device) for _ in range(13)][3:]
        row = {"ceiling": name, "rate": amount / summary(times)["seconds"]}
        session.add("ceilings", row)
        print(f"{name}: {row['rate']:.3g}", flush=True)


def device_work(work: Callable[[], object], device: str) -> list[str]:
    """Names of all kernels, copies and fills that `work` starts (of all operations, on a CPU)."""
    for _ in range(3):
        work()
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device == "cuda" else [])
    with profile(activities=activities, acc_events=True) as found:
        work()
        if device == "cuda":
            torch.cuda.synchronize()
    wanted = DeviceType.CUDA if device == "cuda" else DeviceType.CPU
    return [event.name for event in found.events() if event.device_type == wanted]


def launches(session: Session) -> None:
    """The forward call with gradients at the batch of the paper, lift included."""
    size, width = session.plan.small[0], session.plan.widths[-1]
    for name in ("csd-sigmoid", "dot-sigmoid", "dot-softmax"):
        batch = make_batch(cases()[name], (size, size, width), session.plan.device, torch.bfloat16)
        names = device_work(lambda batch=batch: ours()(batch), session.plan.device)
        session.add("launches", {"case": name, "shape": [size, size, width], "launches": len(names), "names": names})
        print(f"{name}, {size} x {size} x {width}, forward with gradients: {len(names)} launches", flush=True)


def sanitizer(session: Session) -> None:
    """`compute-sanitizer` over one small call; racecheck sees shared memory only, memcheck every access."""
    tool = shutil.which("compute-sanitizer")
    if tool is None or session.dry:
        why = "a dry run" if session.dry else "compute-sanitizer is not on PATH"
        print(f"absent: {why}")
        session.add("sanitizer", {"absent": why})
        return
    for kind in ("racecheck", "memcheck"):
        for name in ("csd-sigmoid-ids", "dot-softmax"):
            if session.spent(45):
                session.add("sanitizer", {"tool": kind, "case": name, "skipped": "the budget"})
                continue
            session.add("sanitizer", _sanitized(tool, kind, name, min(120.0, session.left() - 15)))


def _sanitized(tool: str, kind: str, case: str, limit: float) -> dict[str, object]:
    shape, start = ("300", "200", "96"), time.monotonic()
    command = [tool, "--tool", kind, "--error-exitcode", "9", sys.executable, "-m", "benchmarks.profile", case, "--bare",
               "--device", "cuda", "--dtype", "bfloat16", "--shape", *shape]  # fmt: skip
    # the caching allocator would hide an access beyond a tensor's end
    surroundings = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    row: dict[str, object] = {"tool": kind, "case": case}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=surroundings, capture_output=True, text=True, timeout=limit, check=False
        )
        lines = [line for line in done.stdout.splitlines() if "SUMMARY" in line]
        row |= {
            "exit": done.returncode,
            "summary": lines[-1].strip("= ") if lines else (done.stdout + done.stderr)[-300:],
        }
    except subprocess.TimeoutExpired:
        row["skipped"] = f"not done after {limit:.0f} s"
    row["seconds"] = round(time.monotonic() - start, 1)
    print(kind, case, row.get("summary", row.get("skipped")), flush=True)
    return row
