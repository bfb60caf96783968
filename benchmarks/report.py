"""The figures of the documents, from the committed result files and from nothing else.

python -m benchmarks.report           # rewrites the sections marked <!-- report: NAME --> ... <!-- end -->
python -m benchmarks.report --check   # fails if they differ from the files
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence

from prolap.evaluation.claims import figure

from . import batch_memory, comparison, compile_check, cost_model, gpu, memory, miniature, recipes, step
from .records import RESULTS, ROOT, UNMEASURED, Row, argument_parser, at_path, load, origin, shows, table


@shows("quickstart/metrics.json")
def quickstart(record: Row) -> str:
    """Retrieval beside the baseline's, and the claims."""
    rows = []
    for key, label in (("a2t", "A→T"), ("t2a", "T→A")):
        for part, note in (("retrieval", ""), ("retrieval.unseen_sources", ", unseen sources")):
            sides = at_path(record, part), at_path(record, f"baseline.{part}")
            cells = [" / ".join(f"{100 * side[key][m]:.1f}" for side in sides) for m in ("r1", "r5", "r10", "map10")]
            rows.append([label + note, *cells])
    retrieval = table(["test, model / baseline, %", "R@1", "R@5", "R@10", "mAP@10"], rows)
    words = {True: "passed", False: "**failed**", None: "not measured"}
    claims = table(["claim", "value", "control", "threshold", ""], [
        [c["name"], _number(c["value"]), _number(c["control"]), f"{c['threshold']:g}", words[c["passed"]]]
        for c in record["claims"]
    ])  # fmt: skip
    versions = record["versions"]
    text = "; ".join([
        f"N = {record['retrieval']['n']:,} clips, chance {100 * record['retrieval']['chance_r1']:.1f} %",
        f"{versions['cpu']}, {versions['threads']} threads, commit {str(record['commit'])[:7]}, seed {record['seed']}",
        ", ".join(f"{name} {record['seconds'][name]:.0f} s" for name in ("render", "train", "evaluate", "total")),
    ])  # fmt: skip
    return f"{text}:\n\n{retrieval}\n\n{claims}"


def _number(value: float | None) -> str:
    return "-" if value is None else figure(value)


def reliability() -> str:
    """What each campaign counted, and how many of its cases failed."""
    files = sorted((RESULTS / "reliability").glob("*.json"))
    records = [load(f"reliability/{path.name}") for path in files]
    rows = [
        (
            each["campaign"],
            f"{each['count']:,} {each['unit']}",
            f"{each['failed']:,}",
            str(each["first_seed"]),
            origin(each),
        )
        for each in records
    ]
    return table(("campaign", "count", "failures", "first seed", "on"), rows) if rows else UNMEASURED


DOCUMENTS = tuple(
    ROOT / name
    for name in ("README.md", "docs/performance.md", "docs/reproduce.md", "docs/training.md", "docs/reliability.md")
)
SECTIONS: dict[str, Callable[[], str]] = {
    "quickstart": quickstart,
    "recipes": recipes.report,
    "miniature": miniature.report,
    "batch-memory": batch_memory.report,
    "losses": comparison.losses,
    "limit": comparison.limit,
    "memory": memory.report,
    "elementwise": comparison.elementwise,
    "step": step.report,
    "compiled": compile_check.report,
    "bilinear-model": cost_model.report,
    "elementwise-model": cost_model.elementwise,
    "gpu": gpu.report,
    "reliability": reliability,
}
MARKED = re.compile(r"(<!-- report: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str, document: str) -> str:
    """A document with every marked section written from its files."""

    def section(match: re.Match[str]) -> str:
        if match["name"] not in SECTIONS:
            sys.exit(f"{document}: no section {match['name']!r}; there are {', '.join(SECTIONS)}")
        return f"{match[1]}{SECTIONS[match['name']]()}\n\n{match[3]}"

    if text.count("<!-- report: ") != len(MARKED.findall(text)):
        sys.exit(
            f"{document}: a section is marked '<!-- report: NAME -->', a line of its own, and ends with '<!-- end -->'"
        )
    return MARKED.sub(section, text)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argument_parser("report", __doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a document differs")
    args = parser.parse_args(argv)
    texts = {path: path.read_text() for path in DOCUMENTS}
    marked = {match["name"] for text in texts.values() for match in MARKED.finditer(text)}
    if missing := SECTIONS.keys() - marked:
        sys.exit(f"no document shows {', '.join(sorted(missing))}")
    for path, text in texts.items():
        written = filled(text, path.name)
        if args.check and written != text:
            sys.exit(f"{path.name} does not show what benchmarks/results holds; run python -m benchmarks.report")
        if not args.check:
            path.write_text(written)


if __name__ == "__main__":
    main()
