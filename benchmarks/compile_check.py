"""Compiles every launch of the fused kernels ahead of time and reads the machine code: `python -m benchmarks.compile_check`.

No GPU and no driver: the launchers run on CPU tensors with the launch itself replaced by Triton's own compilation for a named
chip, so types, alignment hints and constants are those of a real launch. Exits 1 if a kernel spills, uses stack, exceeds the
chip's shared memory, lacks matrix instructions, or was never compiled.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

from .machine_code import CHIPS, Facts, violations
from .records import argument_parser, write_json

COLUMNS = (
    "kernel", "configuration", "chip", "registers", "shared", "stack", "spills", "matrix", "special", "instructions",
)  # fmt: skip
"""Of the printed table; instructions and special functions per pair, and seconds, come after them."""


def compile_chip(
    name: str, tables: dict[str, tuple[int, ...]], only: Sequence[str] = (), main: bool = False
) -> tuple[list[Facts], list[str]]:
    """Facts of every launch for one chip, and a line for each kernel that nothing launched."""
    from .launches import compile_launches, missing

    facts = compile_launches(CHIPS[name], tables, only, main)
    return facts, missing(facts, only)


def check(args: argparse.Namespace) -> tuple[list[Facts], list[str]]:
    """Facts of every kernel on every chip, and what is wrong with them."""
    work = partial(compile_chip, tables=dict(args.config), only=args.only, main=args.main)
    if args.jobs > 1 and len(args.chips) > 1:
        # spawned: a fork would inherit torch's thread pool
        with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
            parts = list(pool.map(work, args.chips))
    else:
        parts = [work(chip) for chip in args.chips]
    facts = [f for part, _ in parts for f in part]
    never = [set(lines) for _, lines in parts]
    return facts, [line for f in facts for line in violations(f)] + sorted(set.intersection(*never))


def table(facts: Sequence[Facts]) -> str:
    """One line per kernel, configuration and chip."""
    lines = [(*COLUMNS, "instructions/pair", "special/pair", "s")]
    for f in facts:
        per_pair = (f"{n / f.pairs:.1f}" if f.pairs else "" for n in (f.instructions, f.special))
        lines.append((*(str(getattr(f, name)) for name in COLUMNS), *per_pair, f"{f.seconds:.1f}"))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def _config(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, numbers = text.partition("=")
    return name, tuple(int(n) for n in numbers.split(","))


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 1 if the gate fails."""
    parser = argument_parser("compile_check", __doc__)
    add = parser.add_argument
    add("--json", type=Path, metavar="FILE", help="write the table as JSON")
    add("--chips", nargs="+", choices=CHIPS, default=list(CHIPS), help="chips to compile for (all)")
    add("--jobs", type=int, default=2, help="processes (2)")
    add("--only", nargs="+", default=[], metavar="KERNEL", help="kernels to compile (all)")
    add("--config", nargs="+", type=_config, default=[], metavar="TABLE=N,N,...",
        help="try these numbers in every row of a table of prolap_kernels.backends.triton.configs")  # fmt: skip
    add("--main", action="store_true", help="bfloat16 in the forms that training asks for, alone")
    args = parser.parse_args(argv)
    if os.environ.pop("TRITON_INTERPRET", "0") not in ("", "0"):
        print("TRITON_INTERPRET is ignored: interpreted kernels do not compile", file=sys.stderr)
    start = time.perf_counter()
    facts, wrong = check(args)
    seconds = time.perf_counter() - start
    print(table(facts))
    print(f"{len(facts)} kernels compiled in {seconds:.0f} s, {len(wrong)} violations")
    for line in wrong:
        print(f"violation: {line}")
    if args.json:
        versions = {name: version(name) for name in ("torch", "triton")}
        kernels = [f._asdict() for f in facts]
        write_json(args.json, {"versions": versions, "kernels": kernels, "violations": wrong, "seconds": seconds})
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
