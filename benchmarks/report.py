"""The figures of the documents, from the committed result files and from nothing else.

python -m benchmarks.report           # rewrites the sections marked <!-- report: NAME --> ... <!-- end -->
python -m benchmarks.report --check   # fails if they differ from the files
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence

from . import cost_model, loss_tables, trainer_tables
from .records import ROOT, argument_parser

DOCUMENTS = tuple(
    ROOT / name
    for name in ("README.md", "docs/performance.md", "docs/reproduce.md", "docs/training.md", "docs/reliability.md")
)
SECTIONS: dict[str, Callable[[], str]] = {
    "quickstart": trainer_tables.quickstart,
    "recipes": trainer_tables.recipes,
    "miniature": trainer_tables.miniature,
    "batch-memory": trainer_tables.batch_memory,
    "losses": loss_tables.losses,
    "limit": loss_tables.limit,
    "memory": loss_tables.memory,
    "elementwise": loss_tables.elementwise,
    "step": loss_tables.step,
    "compiled": loss_tables.compiled,
    "bilinear-model": loss_tables.bilinear_model,
    "elementwise-model": cost_model.elementwise,
    "gpu": loss_tables.gpu,
    "reliability": trainer_tables.reliability,
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
