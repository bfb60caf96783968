"""What the sections of a run on a GPU share: sizes, a time budget, and the record that is whole after every step."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from .cases import Shape
from .measure import brief
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
