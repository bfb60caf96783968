"""What the losses ought to cost on a GPU, from bytes, flops and instructions alone: `python -m benchmarks.cost_model`.

A prediction, not a measurement. It says which schedule to build first and, once a device has measured it, where the model erred.
Bilinear scores are three matrix products and an epilogue. Elementwise scores are N M D elements with O((N + M) D) memory: nothing
but arithmetic bounds them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .compile_check import per_pair
from .records import UNMEASURED, argument_parser, load, table


class Gpu(NamedTuple):
    """Data-sheet figures; `products` is what large 16-bit products of the vendor's library are taken to reach, in flop/s."""

    name: str
    processors: int
    clock: float
    products: float
    memory: float
    cache: float
    lanes: int = 128
    special: int = 16


H100 = Gpu("H100 SXM", 132, 1.755e9, 700e12, 3.35e12, 5.5e12)
"""products and cache are assumptions (about 70 % of the dense peak; published microbenchmarks of the second-level cache)."""


class Cost(NamedTuple):
    """Seconds of one forward and backward over N x N pairs."""

    schedule: str
    seconds: float


@dataclass(frozen=True)
class Model:
    """N x N pairs of width D in 16 bits; instructions and special functions of the epilogue per pair; the tile of the scores."""

    gpu: Gpu
    n: int
    d: int
    instructions: float
    special: float
    tile: tuple[int, int]

    @property
    def products(self) -> float:
        """The three products at the library's rate: what nothing that computes them beats."""
        return 6 * self.n**2 * self.d / self.gpu.products

    @property
    def epilogue(self) -> float:
        """Issue slots or special-function slots, whichever takes longer."""
        slots = self.gpu.processors * self.gpu.clock
        return self.n**2 / slots * max(self.instructions / self.gpu.lanes, self.special / self.gpu.special)

    @property
    def scores(self) -> float:
        """The score product in our kernel: flops, or its operands out of the second-level cache, whichever takes longer."""
        m, n = self.tile
        operands = 2 * self.d * (1 / m + 1 / n) * self.n**2
        return max(self.products / 3, operands / self.gpu.cache)

    def bytes(self, per_pair: float) -> float:
        return per_pair * self.n**2 / self.gpu.memory

    def schedules(self) -> list[Cost]:
        """The candidates, from what is certain to what is hoped for."""
        third = self.products / 3
        # the library writes float32 scores (4), one pass reads them and writes G (4 + 2), two products read G (2 + 2)
        apart = self.bytes(6) + max(0.0, self.bytes(4) - third) + 2 * max(0.0, self.bytes(2) - third)
        # ours writes G (2), two products of the library read it (2 + 2), each behind its own flops
        traffic = max(0.0, self.bytes(2) - self.scores) + 2 * max(0.0, self.bytes(2) - third)
        return [
            Cost("products alone", self.products),
            Cost("library scores, epilogue in a pass of its own", self.products + apart),
            Cost("epilogue on our tile, after its product", 2 * third + self.scores + self.epilogue + traffic),
            Cost("epilogue on our tile, behind another tile's product",
                 2 * third + max(self.scores, self.epilogue) + traffic),
            Cost("no G: scores again in each gradient kernel", 2 * third + 3 * self.scores + 2 * self.epilogue),
        ]  # fmt: skip


def bilinear(n: int, widths: Sequence[int], instructions: float, special: float, tile: tuple[int, int]) -> str:
    """Markdown: milliseconds of every schedule at every width, and the ratio to the products alone."""
    models = [Model(H100, n, d, instructions, special, tile) for d in widths]
    rows = [
        [costs[0].schedule, *map(_cost, costs, models)]
        for costs in zip(*(m.schedules() for m in models), strict=True)
    ]  # fmt: skip
    return table([f"predicted ms (× products), {H100.name}, N = M = {n:,}", *(f"D = {d}" for d in widths)], rows)


SCORE_KERNEL = ("sigmoid_tile", "sm_90", "bfloat16", {"STORE=1", "SUMS=1"})
"""Kernel, chip, dtype and flags whose instructions the cost model takes."""


def report() -> str:
    """The cost model at the instructions that the compiler made of the score kernel for an H100."""
    record = load("compile_check.json") or {"kernels": []}
    for kernel in record["kernels"]:
        dtype, tile, *flags = kernel["configuration"].split()
        if (kernel["kernel"], kernel["chip"], dtype, set(flags)) == SCORE_KERNEL:
            instructions, special = per_pair(kernel, "instructions"), per_pair(kernel, "special")
            assert instructions is not None
            assert special is not None
            rows, columns = map(int, tile.split("x")[:2])
            text = f"A tile of {rows} × {columns}; {instructions:.0f} instructions and {special:.1f} special functions a pair"
            costs = bilinear(65_536, (512, 768, 1024), instructions, special, (rows, columns))
            return f"{text}, all of the kernel counted:\n\n{costs}"
    return UNMEASURED


def _cost(cost: Cost, model: Model) -> str:
    return f"{1e3 * cost.seconds:.1f} ({cost.seconds / model.products:.2f})"


class Form(NamedTuple):
    """Machine instructions of an element that issue on the ordinary lanes, and special functions."""

    step: str
    name: str
    instructions: float
    special: float


FORMS = (
    Form("forward", "built: s = (vy - vx) R, asinh(s/2) as a polynomial, kappa (ly - lx) a term of the rows", 16, 1),
    Form("forward", "one reciprocal; logarithms of products of ratios every 16 dimensions, numerator and denominator apart",
         15, 1.25),
    Form("forward", "one reciprocal and a logarithm per element", 17, 2),
    Form("forward", "exponentials per element, series for 1 - u and for atanh (the form for matched rows)", 36, 2),
    Form("backward", "built: two passes, each row's owner sums over the other side", 2 * 23, 2),
    Form("backward", "one pass that shares the geometry, and sums one side by partial results in memory", 30, 1),
)  # fmt: skip
"""Of inclusion, counted by hand; of the first, 8 multiply-adds, 4 additions, 4 products. Loads, loops and addresses are left
out."""


def seconds(gpu: Gpu, elements: float, form: Form) -> float:
    """Issue slots or special functions, whichever takes longer; a special function takes an issue slot too."""
    issued = (form.instructions + form.special) / gpu.lanes
    return elements / (gpu.processors * gpu.clock) * max(issued, form.special / gpu.special)


def elementwise(n: int = 4096, m: int = 4096, d: int = 512) -> str:
    """Markdown: a line per form of inclusion between all rows."""
    rows = [
        [form.step, form.name, *(f"{count:g}" for count in (form.instructions, form.special)),
         f"{1e3 * seconds(H100, n * m * d, form):.1f}"]
        for form in FORMS
    ]  # fmt: skip
    head = ["pass", "form", "instructions", "special", "predicted ms"]
    return f"N × M × D = {n:,} × {m:,} × {d}, float32, {H100.name}:\n\n{table(head, rows)}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argument_parser("cost_model", __doc__)
    parser.add_argument("--rows", type=int, default=65_536, help="N = M (65536)")
    parser.add_argument("--widths", type=int, nargs="+", default=[512, 768, 1024], help="D (512 768 1024)")
    parser.add_argument("--instructions", type=float, help="of the epilogue, per pair and lane; without it, inclusion")
    parser.add_argument("--special", type=float, default=2.0, help="special functions per pair (2)")
    parser.add_argument("--tile", type=int, nargs=2, default=(128, 256), help="rows and columns of a program (128 256)")
    args = parser.parse_args(argv)
    if args.instructions is None:
        print(elementwise())
    else:
        print(bilinear(args.rows, args.widths, args.instructions, args.special, tuple(args.tile)))


if __name__ == "__main__":
    main()
