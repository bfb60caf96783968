"""The figures of the documents, from the committed result files and from nothing else.

python -m benchmarks.report           # rewrites the sections marked <!-- report: NAME --> ... <!-- end -->
python -m benchmarks.report --check   # fails if they differ from the files
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

from .environment import ROOT
from .tables import RESULTS, UNMEASURED, compiled, gpu, limit, load, losses, memory, model, origin, table
from .tile_tables import predicted, step, tiles
from .trainer_tables import batch_memory, miniature

DOCUMENTS = tuple(ROOT / name for name in ("README.md", "docs/performance.md", "docs/reproduce.md", "docs/training.md"))
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
    origins = sorted({origin(found) for group in groups.values() for found in group})
    note = "; ".join(origins)
    return f"{table(['recipe (what differs)', 'seeds', *RECIPE_COLUMNS], rows)}\n\n{note} (+: tracked files differed)"


def quickstart() -> str:
    """Retrieval beside the baseline's, and the claims."""
    found = load("quickstart/metrics.json")
    if found is None:
        return UNMEASURED
    rows = []
    for key, label in (("a2t", "A→T"), ("t2a", "T→A")):
        for where, note in (("retrieval", ""), ("retrieval.unseen_sources", ", unseen sources")):
            sides = read(found, where), read(found, f"baseline.{where}")
            cells = [" / ".join(f"{100 * side[key][m]:.1f}" for side in sides) for m in ("r1", "r5", "r10", "map10")]
            rows.append([label + note, *cells])
    first = table(["test, model / baseline, %", "R@1", "R@5", "R@10", "mAP@10"], rows)
    claims = [
        [
            c["name"],
            _number(c["value"]),
            _number(c["control"]),
            f"{c['threshold']:g}",
            {True: "passed", False: "**failed**", None: "not measured"}[c["passed"]],
        ]
        for c in found["claims"]
    ]
    second = table(["claim", "value", "control", "threshold", ""], claims)
    seconds = found["seconds"]
    versions = found["versions"]
    where = f"{versions['cpu']}, {versions['threads']} threads, commit {str(found['commit'])[:7]}, seed {found['seed']}"
    times = ", ".join(f"{name} {seconds[name]:.0f} s" for name in ("render", "train", "evaluate", "total"))
    chance = 100 * found["retrieval"]["chance_r1"]
    return f"N = {found['retrieval']['n']:,} clips, chance {chance:.1f} %; {where}; {times}:\n\n{first}\n\n{second}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


SECTIONS: dict[str, Callable[[], str]] = {
    "quickstart": quickstart,
    "recipes": recipes,
    "losses": losses,
    "limit": limit,
    "memory": memory,
    "tiles": tiles,
    "step": step,
    "tile-model": predicted,
    "model": model,
    "compiled": compiled,
    "gpu": gpu,
    "miniature": miniature,
    "batch-memory": batch_memory,
}
MARKED = re.compile(r"(<!-- report: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str, document: str) -> str:
    """A document with every marked section written from its files."""

    def section(found: re.Match[str]) -> str:
        if found["name"] not in SECTIONS:
            sys.exit(f"{document}: no section {found['name']!r}; there are {', '.join(SECTIONS)}")
        return f"{found[1]}{SECTIONS[found['name']]()}\n\n{found[3]}"

    if text.count("<!-- report: ") != len(MARKED.findall(text)):
        sys.exit(
            f"{document}: a section is marked '<!-- report: NAME -->', a line of its own, and ends with '<!-- end -->'"
        )
    return MARKED.sub(section, text)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a document differs")
    args = parser.parse_args(argv)
    before = {path: path.read_text() for path in DOCUMENTS}
    marked = {found["name"] for text in before.values() for found in MARKED.finditer(text)}
    if missing := SECTIONS.keys() - marked:
        sys.exit(f"no document shows {', '.join(sorted(missing))}")
    for path, text in before.items():
        after = filled(text, path.name)
        if args.check and after != text:
            sys.exit(f"{path.name} does not show what benchmarks/results holds; run python -m benchmarks.report")
        if not args.check:
            path.write_text(after)


if __name__ == "__main__":
    main()
