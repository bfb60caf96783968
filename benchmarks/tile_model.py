"""What inclusion between all rows ought to cost on a GPU, from instructions alone: `python -m benchmarks.tile_model`.

N M D elements and O((N + M) D) memory: nothing but arithmetic bounds it. A prediction, not a measurement.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

from .cost_model import H100, Chip


class Form(NamedTuple):
    """Machine instructions of an element that issue on the ordinary lanes, and special functions."""

    name: str
    instructions: float
    special: float


FORWARD = (
    Form("built: s = (vy - vx) R, asinh(s/2) as a polynomial, kappa (ly - lx) a term of the rows", 16, 1),
    Form(
        "one reciprocal; logarithms of products of ratios every 16 dimensions, numerator and denominator apart",
        15,
        1.25,
    ),
    Form("one reciprocal and a logarithm per element", 17, 2),
    Form("exponentials per element, series for 1 - u and for atanh (the form for matched rows)", 36, 2),
)
"""Counted by hand; of the first, 8 multiply-adds, 4 additions, 4 products. Loads, loops and addresses are left out."""
BACKWARD = (
    Form("built: two passes, each row's owner sums over the other side", 2 * 23, 2),
    Form("one pass that shares the geometry, and sums one side by partial results in memory", 30, 1),
)


def seconds(chip: Chip, elements: float, form: Form) -> float:
    """Issue slots or special functions, whichever takes longer; a special function takes an issue slot too."""
    slots = chip.processors * chip.clock
    issued = (form.instructions + form.special) / chip.lanes
    return elements / slots * max(issued, form.special / chip.special)


def table(n: int = 4096, m: int = 4096, d: int = 512, chip: Chip = H100) -> str:
    """Markdown: a line per form."""
    lines = ["| pass | form | instructions | special | predicted ms |", "| --- | --- | --- | --- | --- |"]
    for title, forms in (("forward", FORWARD), ("backward", BACKWARD)):
        for form in forms:
            time = 1e3 * seconds(chip, float(n) * m * d, form)
            lines.append(f"| {title} | {form.name} | {form.instructions:g} | {form.special:g} | {time:.1f} |")
    return f"N × M × D = {n:,} × {m:,} × {d}, float32, {chip.name}:\n\n" + "\n".join(lines)


def main() -> None:
    print(table())


if __name__ == "__main__":
    sys.exit(main())
