"""The targets of the engine, judged by what one session measured; what it did not measure is unmeasured, never passed."""

from __future__ import annotations

from collections.abc import Iterable

from .peers import LIMIT, OURS
from .records import Row
from .session import Plan, Session

TO_LIMIT, STRETCH = 1.35, 1.15
TO_SIGLIP = 1.3
WORKSPACE_GB = 0.8
PPCL_TO_SIGLIP = 1.03
LAUNCHES = 12
FLAT = 1.25
"""Our reading of "flat": time at 1,024 rows over time at 256."""
ELEMENTWISE_MS = {"inclusion-score-forward": 5.0, "inclusion-score": 16.0}
"""Asked for on an H100 at the plan's elementwise shape in float32."""
FASTER = {"PyKeOps": 10.0, "torch.compile": 3.0}


class Cells:
    """Rows with a time, by case, rows, width and contender."""

    def __init__(self, rows: Iterable[Row], dtype: str) -> None:
        self.rows = {(r["case"], r["shape"][0], r["shape"][2], r["contender"]): r
                     for r in rows if r.get("dtype") == dtype and "seconds" in r}  # fmt: skip

    def value(self, case: str, rows: int, width: int, contender: str = OURS, key: str = "seconds") -> float | None:
        value = self.rows.get((case, rows, width, contender), {}).get(key)
        return None if value is None else float(value)

    def fastest(self, case: str, rows: int, width: int, start: str) -> float | None:
        """Seconds of the best variant of a peer."""
        times = [r["seconds"] for (c, b, d, who), r in self.rows.items()
                 if (c, b, d) == (case, rows, width) and who.startswith(start)]  # fmt: skip
        return min(times, default=None)


def _ratio(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a / b


def _at_most(name: str, value: float | None, bound: float, stretch: float | None = None) -> Row:
    passed = None if value is None else value <= bound
    row = {"target": name, "asked": f"<= {bound:g}", "value": value, "passed": passed}
    return row | ({} if stretch is None or value is None else {"stretch": value <= stretch})


def _at_least(name: str, value: float | None, bound: float) -> Row:
    passed = None if value is None else value >= bound
    return {"target": name, "asked": f">= {bound:g}", "value": value, "passed": passed}


def judged(plan: Plan, rows: Iterable[Row], launch_rows: Iterable[Row]) -> list[Row]:
    """A row per target of the losses: what it asks, the measured value, whether it holds (None: unmeasured)."""
    cells, big, (small, flat) = Cells(rows, "bfloat16"), plan.big, plan.small
    targets: list[Row] = []
    for width in plan.widths:
        at = f"B={big}, D={width}"
        time = cells.value("csd-sigmoid", big, width)
        limit = cells.value("csd-sigmoid", big, width, LIMIT)
        siglip = cells.value("dot-sigmoid", big, width)
        peer = cells.fastest("dot-sigmoid", big, width, "siglip-kernel")
        workspace = cells.value("csd-sigmoid", big, width, key="peak_bytes")
        targets += [
            _at_most(f"PPCL over three products, {at}", _ratio(time, limit), TO_LIMIT, STRETCH),
            _at_least(f"siglip-kernel's best over our SigLIP, {at}", _ratio(peer, siglip), TO_SIGLIP),
            _at_most(f"PPCL over our SigLIP, {at}", _ratio(time, siglip), PPCL_TO_SIGLIP),
            _at_most(f"workspace in GB, {at}", _ratio(workspace, 1e9), WORKSPACE_GB),
        ]
    width = plan.widths[-1]
    counts = [row["launches"] for row in launch_rows if row.get("case") == "csd-sigmoid"]
    times = [cells.value("csd-sigmoid", rows, width) for rows in (flat, small)]
    return [
        *targets,
        _at_most(f"launches of the forward call, B={small}, D={width}", counts[0] if counts else None, LAUNCHES),
        _at_most(f"time at B={flat} over B={small}, D={width}", _ratio(*times), FLAT),
    ]


def judged_elementwise(plan: Plan, rows: Iterable[Row]) -> list[Row]:
    """The same for the matrix of inclusions."""
    cells, (n, m, d) = Cells(rows, "float32"), plan.elementwise
    at = f"{n} x {m} x {d} float32"
    targets = [
        _at_most(f"ms of {case}, {at}", _ratio(cells.value(case, n, d), 1e-3), bound)
        for case, bound in ELEMENTWISE_MS.items()
    ]
    own = cells.value("inclusion-score", n, d)
    for peer, factor in FASTER.items():
        ratio = _ratio(cells.value("inclusion-score", n, d, peer), own)
        targets.append(_at_least(f"{peer} over ours, inclusion-score, {at}", ratio, factor))
    return targets


def targets(session: Session) -> None:
    """Prints and records every target."""
    session.record["sections"]["targets"] = []
    rows = judged(session.plan, session.rows("key") + session.rows("sweep"), session.rows("launches"))
    for row in rows + judged_elementwise(session.plan, session.rows("elementwise")):
        word = {True: "passed", False: "FAILED", None: "unmeasured"}[row["passed"]]
        value = "" if row["value"] is None else f"{row['value']:.3g}"
        more = ", stretch passed" if row.get("stretch") else ""
        session.add("targets", row, f"{word:<11}{row['target']}: {value} (asked {row['asked']}{more})")
