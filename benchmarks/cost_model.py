"""What the pair engine ought to cost on a GPU, from bytes, flops and instructions alone: `python -m benchmarks.cost_model`.

A prediction, not a measurement. It says which schedule to build first and, once a device has measured it, where the model erred.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Chip(NamedTuple):
    """Data-sheet figures; `products` is what large 16-bit products of the vendor's library are taken to reach, in flop/s."""

    name: str
    processors: int
    clock: float
    products: float
    memory: float
    cache: float
    cache_bytes: int
    lanes: int = 128
    special: int = 16


H100 = Chip("H100 SXM", 132, 1.755e9, 700e12, 3.35e12, 5.5e12, 50 << 20)
"""products and cache are assumptions (about 70 % of the dense peak; published microbenchmarks of the second-level cache)."""


class Cost(NamedTuple):
    """Seconds of one forward and backward over N x N pairs."""

    schedule: str
    products: float
    pairs: float
    traffic: float
    total: float


@dataclass(frozen=True)
class Model:
    """N x N pairs of width D in 16 bits; instructions and special functions of the epilogue per pair; the tile of the scores."""

    chip: Chip
    n: int
    d: int
    instructions: float
    special: float
    tile: tuple[int, int]

    @property
    def products(self) -> float:
        """The three products at the library's rate: what nothing that computes them beats."""
        return 6 * self.n**2 * self.d / self.chip.products

    @property
    def epilogue(self) -> float:
        """Issue slots or special-function slots, whichever takes longer."""
        slots = self.chip.processors * self.chip.clock
        return self.n**2 / slots * max(self.instructions / self.chip.lanes, self.special / self.chip.special)

    @property
    def scores(self) -> float:
        """The score product in our kernel: flops, or its operands out of the second-level cache, whichever takes longer."""
        m, n = self.tile
        operands = 2 * self.d * (1 / m + 1 / n) * self.n**2
        return max(self.products / 3, operands / self.chip.cache)

    def bytes(self, per_pair: float) -> float:
        return per_pair * self.n**2 / self.chip.memory

    def schedules(self) -> list[Cost]:
        """The candidates, from what is certain to what is hoped for."""
        third = self.products / 3
        # the library writes float32 scores (4), one pass reads them and writes G (4 + 2), two products read G (2 + 2)
        apart = self.bytes(6) + max(0.0, self.bytes(4) - third) + 2 * max(0.0, self.bytes(2) - third)
        # ours writes G (2), two products of the library read it (2 + 2), each behind its own flops
        written = max(0.0, self.bytes(2) - self.scores)
        read = 2 * max(0.0, self.bytes(2) - third)
        serial = self.scores + self.epilogue
        hidden = max(self.scores, self.epilogue)
        return [
            Cost("products alone", self.products, 0.0, 0.0, self.products),
            Cost("library scores, epilogue in a pass of its own", self.products, 0.0, apart, self.products + apart),
            Cost("epilogue on our tile, after its product", 2 * third + self.scores, self.epilogue, written + read,
                 2 * third + serial + written + read),
            Cost("epilogue on our tile, behind another tile's product", 2 * third + self.scores, self.epilogue,
                 written + read, 2 * third + hidden + written + read),
            Cost("no G: scores again in each gradient kernel", 5 * third, 2 * self.epilogue, 0.0,
                 2 * third + 3 * self.scores + 2 * self.epilogue),
        ]  # fmt: skip


def table(n: int, widths: Sequence[int], instructions: float, special: float, tile: tuple[int, int]) -> str:
    """Markdown: milliseconds of every schedule at every width, and the ratio to the products alone."""
    models = [Model(H100, n, d, instructions, special, tile) for d in widths]
    columns = [model.schedules() for model in models]
    head = f"| predicted ms (× products), {H100.name}, N = M = {n:,} | " + " | ".join(f"D = {d}" for d in widths) + " |"
    lines = [head, "| --- |" + " --- |" * len(widths)]
    for row in zip(*columns, strict=True):
        cells = (f"{1e3 * c.total:.1f} ({c.total / m.products:.2f})" for c, m in zip(row, models, strict=True))
        lines.append(f"| {row[0].schedule} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cost_model", description=__doc__)
    parser.add_argument("--rows", type=int, default=65_536, help="N = M (65536)")
    parser.add_argument("--widths", type=int, nargs="+", default=[512, 768, 1024], help="D (512 768 1024)")
    parser.add_argument("--instructions", type=float, required=True, help="of the epilogue, per pair and lane")
    parser.add_argument("--special", type=float, default=2.0, help="special functions per pair (2)")
    parser.add_argument("--tile", type=int, nargs=2, default=(128, 256), help="rows and columns of a program (128 256)")
    options = parser.parse_args(argv)
    print(table(options.rows, options.widths, options.instructions, options.special, tuple(options.tile)))


if __name__ == "__main__":
    main()
