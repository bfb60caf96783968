"""Scores that are sums over dimensions on a device: exact first, then beside torch.compile and PyKeOps; the terms of a step."""

from __future__ import annotations

from typing import Any

import torch

from prolap_kernels import pairwise_score
from prolap_kernels.scores import TILES

from .cases import cases, make_batch, ours
from .correctness import check, results, truth
from .gpu import Session
from .measure import brief, peak_bytes_here
from .peers import OURS, PEERS
from .run import compare, print_rows

Row = dict[str, Any]
SHAPE, DRY_SHAPE = (4096, 4096, 512), (20, 24, 16)
"""Where times are taken, and in a dry run."""
PROBES, DRY_PROBES = ((384, 512, 128), (517, 389, 100)), ((21, 13, 10),)
RIVALS = ("torch.compile", "PyKeOps")
FORWARD, BOTH = 5e-3, 16e-3
"""Seconds asked for on an H100 at SHAPE in float32."""
FASTER = {"PyKeOps": 10.0, "torch.compile": 3.0}


def tiles(session: Session) -> None:
    """Every tile against float64 in float32 and with 16-bit means, twice for the same bits; then inclusion's times."""
    wrong = 0
    for dtype in ("float32", "bfloat16"):
        for shape in DRY_PROBES if session.dry else PROBES:
            for score in TILES:
                wrong += _probed(session, score.name, shape, dtype)
    if wrong:
        print(f"{wrong} results are wrong: no times")
        return
    shape, peers = (DRY_SHAPE, (OURS,)) if session.dry else (SHAPE, (OURS, *RIVALS))
    for name in ("inclusion-score-forward", "inclusion-score"):
        if session.spent(30):
            session.add("tiles", {"skipped": f"{name}: the time budget"})
            continue
        plan = session.plan
        rows = compare(cases()[name], shape, plan.device, "float32", [PEERS[who] for who in peers], plan.repeat,
                       plan.patience, peak_bytes_here)  # fmt: skip
        print_rows(rows)
        for row in rows:
            session.add("tiles", row)


def _probed(session: Session, score: str, shape: tuple[int, int, int], dtype: str) -> int:
    case = cases()[f"{score.replace('/', '_')}-score"]
    row: Row = {"probe": "tile", "case": case.name, "shape": shape, "dtype": dtype}
    try:
        batch = make_batch(case, shape, session.plan.device, getattr(torch, dtype))
        verdict = check(PEERS[OURS], ours(), batch, truth(batch))
        row["errors"] = verdict.errors
        first, second = results(ours(), batch), results(ours(), batch)
        if verdict.why:
            row["failed"] = verdict.why
        elif not all(a is b is None or torch.equal(a, b) for a, b in zip(first.values(), second.values(), strict=True)):
            row["failed"] = "two runs differ in their bits"
        elif score == "inclusion":
            there, back = (pairwise_score(a, b, score=score) for a, b in ((batch.x, batch.y), (batch.y, batch.x)))
            if not torch.equal(there, -back.T):
                row["failed"] = "H(x in y) is not -H(y in x) to the last bit"
    except Exception as error:
        row["failed"] = brief(error)
    session.add("tiles", row)
    if "failed" in row:
        print(f"FAILED  {case.name}, {dtype}, {shape}: {row['failed']}")
    return int("failed" in row)


def step(session: Session) -> None:
    """The losses of a whole ProLAP step at the paper's size: launches, time, memory."""
    from .step import rows

    for row in rows(session.plan.device, 2 if session.dry else 41):
        session.add("step", row)
        print(row)


def judged(session: Session) -> list[Row]:
    """One row per target of the tiles; unmeasured is None, never passed."""
    cells = {(r["case"], r["contender"]): r["seconds"] for r in session.rows("tiles")
             if "seconds" in r and tuple(r["shape"]) == SHAPE}  # fmt: skip
    where = " x ".join(map(str, SHAPE))
    found: list[Row] = []
    for case, bound in (("inclusion-score-forward", FORWARD), ("inclusion-score", BOTH)):
        own = cells.get((case, OURS))
        found.append({"target": f"ms of {case}, {where} float32", "asked": f"<= {1e3 * bound:g}",
                      "value": None if own is None else 1e3 * own, "passed": None if own is None else own <= bound})  # fmt: skip
    own = cells.get(("inclusion-score", OURS))
    for rival, factor in FASTER.items():
        other = cells.get(("inclusion-score", rival))
        ratio = None if own is None or other is None else other / own
        found.append({"target": f"{rival} over ours, inclusion-score, {where} float32", "asked": f">= {factor:g}",
                      "value": ratio, "passed": None if ratio is None else ratio >= factor})  # fmt: skip
    return found
