"""Compiles every launch of the fused kernels ahead of time and reads the machine code: `python -m benchmarks.compile_check`.

No GPU and no driver: the launchers run on CPU tensors with the launch itself replaced by Triton's own compilation for a named
chip, so types, alignment hints and constants are those of a real launch. Exits 1 if a kernel spills, uses stack, exceeds the
chip's shared memory, lacks matrix instructions, or was never compiled.
"""

from __future__ import annotations

import argparse
import json
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


def compile_chip(
    name: str, forms: dict[str, tuple[int, ...]], only: Sequence[str] = (), main: bool = False
) -> list[Facts]:
    """Compiles every case for one chip. `forms` replaces tiles by table name, to try a configuration."""
    from .launches import compile_launches

    return compile_launches(CHIPS[name], forms, only, main)


def check(
    chips: Sequence[str], jobs: int, forms: dict[str, tuple[int, ...]], only: Sequence[str] = (), main: bool = False
) -> tuple[list[Facts], list[str]]:
    """Facts of every kernel on every chip, and what is wrong with them."""
    work = partial(compile_chip, forms=forms, only=only, main=main)
    if jobs > 1 and len(chips) > 1:
        # spawned: a fork would inherit torch's thread pool
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            facts = [f for part in pool.map(work, chips) for f in part]
    else:
        facts = [f for chip in chips for f in work(chip)]
    return facts, [line for f in facts for line in violations(f)] + ([] if only else missing(facts))


def missing(facts: Sequence[Facts]) -> list[str]:
    """Kernels of the package that no launch compiled."""
    from .launches import shipped_kernels

    return [
        f"{name}: never compiled; add a launch to benchmarks/launches.py"
        for name in shipped_kernels() - {f.kernel for f in facts}
    ]


def _form(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, numbers = text.partition("=")
    return name, tuple(int(n) for n in numbers.split(","))


def table(facts: Sequence[Facts]) -> str:
    """One line per kernel, configuration and chip."""
    head = (
        "kernel",
        "configuration",
        "chip",
        "regs",
        "shared",
        "stack",
        "spills",
        "matrix",
        "special",
        "instr",
        "instr/pair",
        "special/pair",
        "s",
    )
    lines = [head, *(f.cells() for f in facts)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 1 if the gate fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compile_check", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table as JSON")
    parser.add_argument("--chips", nargs="+", choices=CHIPS, default=list(CHIPS), help="chips to compile for (all)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (2)")
    parser.add_argument("--only", nargs="+", default=[], metavar="KERNEL", help="kernels to compile (all)")
    example = "LIFT=128,64,64,8,3: these numbers in every row of a table of prolap_kernels.backends.triton.configs"
    parser.add_argument(
        "--form", nargs="+", type=_form, default=[], metavar="TABLE=N,N,...", help=f"try another form, as {example}"
    )
    parser.add_argument("--main", action="store_true", help="bfloat16 in the forms that training asks for, alone")
    options = parser.parse_args(argv)
    if os.environ.pop("TRITON_INTERPRET", "0") not in ("", "0"):
        print("TRITON_INTERPRET is ignored: interpreted kernels do not compile", file=sys.stderr)
    start = time.perf_counter()
    facts, wrong = check(options.chips, options.jobs, dict(options.form), options.only, options.main)
    seconds = time.perf_counter() - start
    print(table(facts))
    print(f"{len(facts)} kernels compiled in {seconds:.0f} s, {len(wrong)} violations")
    for line in wrong:
        print(f"violation: {line}")
    if options.json:
        versions = {name: version(name) for name in ("torch", "triton")}
        record = {
            "versions": versions,
            "kernels": [f._asdict() for f in facts],
            "violations": wrong,
            "seconds": seconds,
        }
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
