"""The figures of the README, from the committed result files and from nothing else.

python -m benchmarks.report           # rewrites the marked sections
python -m benchmarks.report --check   # fails if they differ from the files
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

from .environment import ROOT

RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"
UNMEASURED = "Not measured yet."
RECIPE_COLUMNS = {
    "R@1 A→T, %": ("retrieval.a2t.r1", 100),
    "R@1 T→A, %": ("retrieval.t2a.r1", 100),
    "location audio": ("inclusion.audio.location", 1),
    "location text": ("inclusion.text.location", 1),
    "partial ρ of level": ("uncertainty.level_partial", 1),
    "wordy general wider": ("uncertainty.wordy_general_rate", 1),
}


def read(found: Any, path: str) -> Any:
    """found["a"]["b"] for "a.b"; None where there is nothing."""
    for key in path.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return found


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def _origin(found: dict) -> str:
    commit = str(found["commit"])[:7]
    torch = found["versions"]["torch"]
    return (
        f"{found['device']}, {found['threads']} threads, torch {torch}, commit {commit}{'+' if found['dirty'] else ''}"
    )


def losses() -> str:
    """Time and memory of the contenders."""
    path = RESULTS / "cpu" / "ppcl.json"
    if not path.is_file():
        return UNMEASURED
    found = json.loads(path.read_text())
    rows = []
    for row in found["rows"]:
        cells = [row["contender"], f"{1e3 * row['seconds']:.0f}", f"{row['peak_bytes'] / 1e6:.0f}"]
        ratios = (row.get("times_ours", 1), row.get("memory_times_ours", 1))
        rows.append([*cells, *(f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}" for ratio in ratios)])
    shape = " × ".join(map(str, found["rows"][0]["shape"]))
    head = ["", "ms", "MB above inputs and gradients", "time / ours", "memory / ours"]
    return f"N × M × D = {shape}, float32, {_origin(found)}:\n\n{table(head, rows)}"


def recipes() -> str:
    """Mean and deviation over seeds of every recipe."""
    groups: dict[str, list[dict]] = {}
    for path in sorted((RESULTS / "recipes").glob("*.json")):
        found = json.loads(path.read_text())
        groups.setdefault(found["recipe"], []).append(found)
    if not groups:
        return UNMEASURED
    rows = []
    for name in sorted(groups, key=lambda n: (n != "preset", n)):
        cells = []
        for path, factor in RECIPE_COLUMNS.values():
            values = [factor * v for found in groups[name] if (v := read(found, path)) is not None]
            digits = 1 if factor == 100 else 2
            spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.{digits}f}{spread}" if values else "-")
        changed = ", ".join(f"`{word}`" for word in groups[name][0]["overrides"])
        rows.append([f"{name} ({changed})" if changed else name, str(len(groups[name])), *cells])
    origins = sorted({_origin(found) for group in groups.values() for found in group})
    note = "; ".join(origins)
    return f"{table(['recipe (what differs)', 'seeds', *RECIPE_COLUMNS], rows)}\n\n{note} (+: tracked files differed)"


def quickstart() -> str:
    """Retrieval beside the twin's, and the claims."""
    path = RESULTS / "quickstart" / "metrics.json"
    if not path.is_file():
        return UNMEASURED
    found = json.loads(path.read_text())
    rows = []
    for key, label in (("a2t", "A→T"), ("t2a", "T→A")):
        for where, note in (("retrieval", ""), ("retrieval.unseen_sources", ", unseen sources")):
            sides = read(found, where), read(found, f"baseline.{where}")
            cells = [" / ".join(f"{100 * side[key][m]:.1f}" for side in sides) for m in ("r1", "r5", "r10", "map10")]
            rows.append([label + note, *cells])
    first = table(["test, model / twin, %", "R@1", "R@5", "R@10", "mAP@10"], rows)
    claims = [
        [
            c["name"],
            _number(c["value"]),
            _number(c["control"]),
            f"{c['threshold']:g}",
            "passed" if c["passed"] else "**failed**",
        ]
        for c in found["claims"]
    ]
    second = table(["claim", "value", "control", "threshold", ""], claims)
    seconds = found["seconds"]
    versions = found["versions"]
    origin = (
        f"{versions['cpu']}, {versions['threads']} threads, commit {str(found['commit'])[:7]}, seed {found['seed']}"
    )
    times = ", ".join(f"{name} {seconds[name]:.0f} s" for name in ("render", "train", "evaluate", "total"))
    chance = 100 * found["retrieval"]["chance_r1"]
    return f"N = {found['retrieval']['n']:,} clips, chance {chance:.1f} %; {origin}; {times}:\n\n{first}\n\n{second}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


SECTIONS = {"losses": losses, "recipes": recipes, "quickstart": quickstart}


def filled(text: str) -> str:
    """The README with every marked section written from its files."""
    for name, make in SECTIONS.items():
        pattern = re.compile(rf"(<!-- report: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        body = make()
        text, count = pattern.subn(lambda found, body=body: f"{found[1]}{body}\n\n{found[2]}", text)
        if count != 1:
            sys.exit(f"README.md must have exactly one section 'report: {name}', found {count}")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    before = Path(README).read_text()
    after = filled(before)
    if args.check and before != after:
        sys.exit("README.md does not show what benchmarks/results holds; run python -m benchmarks.report")
    if not args.check:
        README.write_text(after)


if __name__ == "__main__":
    main()
