"""The targets of the engine, judged by what one session measured; what it did not measure is unmeasured, never passed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from . import gpu_tiles
from .gpu import Plan, Session
from .peers import LIMIT, OURS

Row = dict[str, Any]
TO_LIMIT, STRETCH = 1.35, 1.15
TO_SIGLIP = 1.3
SCRATCH = 0.8e9
PPCL_TO_SIGLIP = 1.03
LAUNCHES = 12
FLAT = 1.25
"""Our reading of "flat": time at 1,024 rows over time at 256."""


class Cells:
    """Rows by case, size, width and contender."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = {(r["case"], r["shape"][0], r["shape"][2], r["contender"]): r
                     for r in rows if r.get("dtype") == "bfloat16" and "seconds" in r}  # fmt: skip

    def value(self, case: str, rows: int, width: int, contender: str = OURS, key: str = "seconds") -> float | None:
        found = self.rows.get((case, rows, width, contender), {}).get(key)
        return None if found is None else float(found)

    def fastest(self, case: str, rows: int, width: int, start: str) -> float | None:
        """Seconds of the best variant of a peer."""
        times = [r["seconds"] for (c, b, d, who), r in self.rows.items()
                 if (c, b, d) == (case, rows, width) and who.startswith(start)]  # fmt: skip
        return min(times, default=None)


def _ratio(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a / b


def judged(plan: Plan, rows: Iterable[Row], launch_rows: Iterable[Row]) -> list[Row]:
    """One row per target: what it asks, the measured value, whether it holds (None: unmeasured)."""
    cells, big, (small, flat) = Cells(rows), plan.big, plan.small
    found: list[Row] = []

    def at_most(name: str, value: float | None, bound: float, stretch: float | None = None) -> None:
        row: Row = {
            "target": name,
            "asked": f"<= {bound:g}",
            "value": value,
            "passed": None if value is None else value <= bound,
        }
        found.append(row | ({} if stretch is None or value is None else {"stretch": value <= stretch}))

    for width in plan.widths:
        time = cells.value("csd-sigmoid", big, width)
        limit = cells.value("csd-sigmoid", big, width, LIMIT)
        at_most(f"PPCL over three products, B={big}, D={width}", _ratio(time, limit), TO_LIMIT, STRETCH)
        own = cells.value("dot-sigmoid", big, width)
        peer = cells.fastest("dot-sigmoid", big, width, "siglip-kernel")
        ratio = _ratio(peer, own)
        found.append({"target": f"siglip-kernel's best over our SigLIP, B={big}, D={width}", "asked": f">= {TO_SIGLIP:g}",
                      "value": ratio, "passed": None if ratio is None else ratio >= TO_SIGLIP})  # fmt: skip
        at_most(f"PPCL over our SigLIP, B={big}, D={width}", _ratio(time, own), PPCL_TO_SIGLIP)
        scratch = cells.value("csd-sigmoid", big, width, key="peak_bytes")
        at_most(f"scratch in GB, B={big}, D={width}", _ratio(scratch, 1e9), SCRATCH / 1e9)
    counts = [row["launches"] for row in launch_rows if row.get("case") == "csd-sigmoid"]
    at_most(f"launches of the forward call, B={small}, D={plan.widths[-1]}", counts[0] if counts else None, LAUNCHES)
    times = [cells.value("csd-sigmoid", rows, plan.widths[-1]) for rows in (flat, small)]
    at_most(f"time at B={flat} over B={small}, D={plan.widths[-1]}", _ratio(*times), FLAT)
    return found


def targets(session: Session) -> None:
    """Prints and records every target."""
    session.record["sections"]["targets"] = []
    rows = judged(session.plan, session.rows("key") + session.rows("sweep"), session.rows("launches"))
    for row in rows + gpu_tiles.judged(session):
        session.add("targets", row)
        word = {True: "passed", False: "FAILED", None: "unmeasured"}[row["passed"]]
        value = "" if row["value"] is None else f"{row['value']:.3g}"
        more = ", stretch passed" if row.get("stretch") else ""
        print(f"{word:<11}{row['target']}: {value} (asked {row['asked']}{more})")
