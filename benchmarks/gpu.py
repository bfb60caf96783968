"""Everything that only a GPU can tell, in one command that keeps a time budget:

    python -m benchmarks.run --gpu [--budget 540] [--only correctness sweep] [--json FILE]
    python -m benchmarks.run --gpu --dry-run        # the same script on the CPU: tiny sizes, no figure means anything

Sections run in order of importance; one for which no time is left says so. The JSON file is whole after every step; with --only
the sections that an earlier session measured of the same sources on the same device stay in it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .environment import ROOT, stamp
from .measure import brief
from .run import write_json

RESULTS = ROOT / "benchmarks" / "results" / "gpu"
NO_DEVICE = (
    "benchmarks: --gpu needs a CUDA or ROCm device and torch sees none here (--dry-run runs the script on the CPU)"
)


class Plan(NamedTuple):
    """Sizes of a session. small: the batch of the paper and the one up to which time should stay flat; tuned: where forms of
    tiles are compared; probes: where results are compared with float64."""

    device: str
    sizes: tuple[int, ...]
    widths: tuple[int, ...]
    small: tuple[int, int]
    tuned: tuple[int, int, int]
    probes: tuple[tuple[int, int, int], ...]
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
    "cuda", (256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536), (512, 768, 1024), (256, 1024), (16384, 16384, 768),
    ((384, 512, 128), (517, 389, 100), (8269, 8000, 512)), 20, 0.8,
)  # fmt: skip
DRY = Plan("cpu", (16, 32), (16, 24), (16, 32), (48, 48, 24), ((24, 30, 16), (21, 13, 10)), 2, 0.1)


class Session:
    """What the sections share: the plan, the clock, the record that is written after every step."""

    def __init__(self, plan: Plan, budget: float, path: Path | None) -> None:
        self.plan, self.path, self.budget = plan, path, budget
        self.dry = plan is DRY
        self.deadline = time.monotonic() + budget
        self.record: dict[str, Any] = stamp(plan.device) | {"dry_run": self.dry, "budget": budget, "sections": {}}

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
            kept = {name: rows for name, rows in earlier["sections"].items() if name not in again}
            self.record["sections"] = {name: kept.get(name, []) for name in sections() if name in kept}

    def add(self, section: str, row: dict[str, Any]) -> None:
        """A row of a section, written at once."""
        self.record["sections"].setdefault(section, []).append(row)
        self.save()

    def save(self) -> None:
        if self.path is not None:
            write_json(self.path, self.record)

    def rows(self, section: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.record["sections"].get(section, [])
        return found


def sections() -> dict[str, Callable[[Session], None]]:
    """In order of importance."""
    from .gpu_checks import ceilings, correctness, launches, sanitizer
    from .gpu_sweep import candidates, extent, key_cells
    from .gpu_tiles import step, tiles
    from .targets import targets

    return {
        "correctness": correctness,
        "ceilings": ceilings,
        "key": key_cells,
        "launches": launches,
        "tiles": tiles,
        "step": step,
        "candidates": candidates,
        "sanitizer": sanitizer,
        "sweep": extent,
        "targets": targets,
    }


def run(session: Session, only: Sequence[str] = ()) -> None:
    """Every section; one that breaks is a row, and the next one runs. Targets are judged whatever the time."""
    for name, work in sections().items():
        if only and name not in only:
            continue
        start = time.monotonic()
        print(f"\n== {name} ({session.left():.0f} s left)", flush=True)
        if session.spent() and name != "targets":
            print("skipped: the time budget is spent")
            session.add(name, {"skipped": "the time budget is spent"})
            continue
        try:
            work(session)
        except Exception as error:
            print(f"broken: {brief(error)}")
            session.add(name, {"broken": brief(error)})
        session.record.setdefault("seconds", {})[name] = round(time.monotonic() - start, 1)
        session.save()


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks.run --gpu", description=__doc__)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.add_argument("--budget", type=float, default=540.0, help="seconds (540)")
    made.add_argument("--only", nargs="+", choices=list(sections()), default=[], metavar="SECTION",
                      help=f"of {', '.join(sections())}")  # fmt: skip
    made.add_argument("--json", type=Path, metavar="FILE", help="default: benchmarks/results/gpu/<device>.json")
    made.add_argument("--plot", type=Path, metavar="FOLDER", help="plots of the sweep")
    made.add_argument(
        "--dry-run", action="store_true", help="on the CPU, tiny; writes a file only where --json names one"
    )
    return made


def main(argv: Sequence[str]) -> int:
    """2 without a device, 1 if a result was wrong, else 0; a missed target is a figure and no failure."""
    args = parser().parse_args(argv)
    if not args.dry_run and not torch.cuda.is_available():
        print(NO_DEVICE, file=sys.stderr)
        return 2
    path = args.json
    if path is None and not args.dry_run:
        device = re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")
        path = RESULTS / f"{device}.json"
    session = Session(DRY if args.dry_run else REAL, args.budget, path)
    session.resume(args.only)
    run(session, args.only)
    if args.plot:
        from .plots import plot_rows

        print("plots:", *plot_rows(session.rows("key") + session.rows("sweep"), args.plot))
    if path:
        print(f"written: {path}")
    checked = session.rows("correctness") + [row for row in session.rows("tiles") if "probe" in row]
    return int(any("failed" in row or "broken" in row for row in checked))
