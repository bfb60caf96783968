"""A run on a GPU: sizes, a time budget, the record that is whole after every step, and the targets that it is judged by.

What a session did not measure is unmeasured, never passed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from .cases import Shape
from .measure import brief
from .peers import LIMIT, OURS
from .records import Row, stamp, write_json


class Plan(NamedTuple):
    """Sizes of a session. small: the batch of the paper and the one up to which time should stay flat; tuned: where kernel
    configurations are compared; elementwise: where the matrix of inclusions is timed; probes: where results are compared with
    float64."""

    device: str
    sizes: tuple[int, ...]
    widths: tuple[int, ...]
    small: tuple[int, int]
    tuned: Shape
    elementwise: Shape
    probes: tuple[Shape, ...]
    repeat: int
    patience: float

    @property
    def big(self) -> int:
        return self.sizes[-1]

    @property
    def by_weight(self) -> tuple[int, ...]:
        """Widths, the middle one first: that is where the others' published figures are."""
        middle = self.widths[len(self.widths) // 2]
        return (middle, *(w for w in self.widths if w != middle))


REAL = Plan(
    device="cuda",
    sizes=(256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536),
    widths=(512, 768, 1024),
    small=(256, 1024),
    tuned=(16384, 16384, 768),
    elementwise=(4096, 4096, 512),
    probes=((384, 512, 128), (517, 389, 100), (8269, 8000, 512)),
    repeat=20,
    patience=0.8,
)
DRY = Plan(
    device="cpu",
    sizes=(16, 32),
    widths=(16, 24),
    small=(16, 32),
    tuned=(48, 48, 24),
    elementwise=(24, 24, 16),
    probes=((24, 30, 16), (21, 13, 10)),
    repeat=2,
    patience=5.0,
)


class Session:
    """The plan, the clock, and the record."""

    def __init__(self, plan: Plan, budget: float, path: Path | None) -> None:
        self.plan, self.path, self.budget = plan, path, budget
        self.dry = plan is DRY
        self.deadline = time.monotonic() + budget
        self.record: Row = stamp(plan.device) | {"dry_run": self.dry, "budget": budget, "sections": {}}

    def left(self) -> float:
        """Seconds of the budget."""
        return self.deadline - time.monotonic()

    def spent(self, needed: float = 10.0) -> bool:
        """Whether less than `needed` seconds are left."""
        return self.left() < (0 if self.dry else needed)

    def resume(self, again: Sequence[str]) -> None:
        """Keeps what an earlier session on this device measured of the same sources, the sections `again` apart."""
        if self.path is None or not again or not self.path.is_file():
            return
        earlier = json.loads(self.path.read_text())
        if all(earlier.get(key) == self.record[key] for key in ("device", "sources", "dry_run")):
            self.record["sections"] = {k: rows for k, rows in earlier["sections"].items() if k not in again}

    def add(self, section: str, row: Row, line: str = "") -> None:
        """A row of a section, written at once; `line` is printed."""
        self.record["sections"].setdefault(section, []).append(row)
        self.save()
        if line:
            print(line, flush=True)

    def skip(self, section: str, what: str = "") -> None:
        """Says that the time budget ended a section, or `what` of it."""
        text = f"{what}the time budget is spent"
        self.add(section, {"skipped": text}, f"skipped {text}")

    def save(self) -> None:
        if self.path is not None:
            write_json(self.path, self.record)

    def rows(self, section: str) -> list[Row]:
        rows: list[Row] = self.record["sections"].get(section, [])
        return rows

    def run(self, sections: Mapping[str, Callable[[Session], None]], whatever: Sequence[str] = ()) -> None:
        """Every section; one that breaks is a row, and the next one runs. Those named in `whatever` run whatever the time."""
        for name, section in sections.items():
            start = time.monotonic()
            print(f"\n== {name} ({self.left():.0f} s left)", flush=True)
            if self.spent() and name not in whatever:
                self.skip(name)
                continue
            try:
                section(self)
            except Exception as error:
                self.add(name, {"broken": brief(error)}, f"broken: {brief(error)}")
            self.record.setdefault("seconds", {})[name] = round(time.monotonic() - start, 1)
            self.save()


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
