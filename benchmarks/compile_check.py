"""Compiles every launch of the fused kernels ahead of time and reads the machine code: `python -m benchmarks.compile_check`.

No GPU and no driver: the launchers run on CPU tensors with the launch itself replaced by Triton's own compilation for a named
chip, so types, alignment hints and constants are those of a real launch. Exits 1 if a kernel spills, uses stack, exceeds the
chip's shared memory, lacks matrix instructions, or was never compiled.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from .records import Row, argument_parser, shows, write_json
from .records import table as markdown


class Chip(NamedTuple):
    """A compilation target; `kind` names its rows in tables of configurations, `shared` its bytes of shared memory per block."""

    name: str
    backend: str
    arch: int | str
    warp: int
    kind: str
    shared: int
    matrix: str


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("sm_80", "cuda", 80, 32, "large", 166912, r"\bHMMA\b"),
        Chip("sm_86", "cuda", 86, 32, "small", 101376, r"\bHMMA\b"),
        Chip("sm_89", "cuda", 89, 32, "small", 101376, r"\bHMMA\b"),
        Chip("sm_90", "cuda", 90, 32, "large", 232448, r"\bHGMMA\b"),
        Chip("sm_100", "cuda", 100, 32, "large", 232448, r"\bUTC\w*MMA\b"),
        Chip("sm_120", "cuda", 120, 32, "small", 101376, r"\bHMMA\b"),
        Chip("gfx942", "hip", "gfx942", 64, "amd", 65536, r"\bv_mfma"),
    )
}


class Facts(NamedTuple):
    """Counts are of instructions in the machine code; shared and stack are bytes.

    pairs: pairs of a tile per thread, 0 where a kernel has none. Instructions and special functions per pair are all of the
    kernel's, main loop and prologue counted once and both of its epilogues, divided by that: a tile runs one of the two.
    """

    kernel: str
    configuration: str
    chip: str
    needs_matrix: bool
    registers: int
    shared: int
    stack: int
    spills: int
    matrix: int
    special: int
    instructions: int
    seconds: float
    pairs: float = 0.0


def violations(facts: Facts) -> list[str]:
    """What the gate forbids, one line each."""
    limit = CHIPS[facts.chip].shared
    rules = {
        "no machine code": facts.instructions == 0,
        f"stack of {facts.stack} bytes": facts.stack > 0,
        f"{facts.spills} spills": facts.spills > 0,
        f"{facts.shared} bytes of shared memory, the chip has {limit}": facts.shared > limit,
        "no matrix instruction": facts.needs_matrix and facts.matrix == 0,
    }
    return [
        f"{facts.kernel} [{facts.configuration}] on {facts.chip}: {what}" for what, broken in rules.items() if broken
    ]


def read(compiled: Any, chip: Chip) -> dict[str, int]:
    """The counts of `Facts` for one `triton` CompiledKernel."""
    return _amd(compiled, chip) if chip.backend == "hip" else _nvidia(compiled, chip)


def _nvidia(compiled: Any, chip: Chip) -> dict[str, int]:
    import triton.backends.nvidia

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(compiled.asm["cubin"])
        tool = Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump"
        run = subprocess.run([tool, "-sass", "-res-usage", file.name], capture_output=True, text=True, check=True)
    text = run.stdout + run.stderr
    sass = re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(.*?);", text, re.M)
    usage = {key: int(value) for key, value in re.findall(r"\b(REG|STACK):(\d+)", text)}
    return {
        "registers": usage["REG"],
        "shared": int(compiled.metadata.shared),
        "stack": usage["STACK"],
        "spills": _count(r"\b(STL|LDL)\b", sass),
        "matrix": _count(chip.matrix, sass),
        "special": _count(r"\bMUFU\b", sass),
        "instructions": len(sass),
    }


def _amd(compiled: Any, chip: Chip) -> dict[str, int]:
    text = compiled.asm["amdgcn"]
    lines = re.findall(r"^\s+([a-z]+_\w+.*)$", text, re.M)

    def field(name: str) -> int:
        return sum(int(value) for value in re.findall(rf"^\s+\.{name}:\s+(\d+)", text, re.M))

    return {
        "registers": field("vgpr_count"),
        "shared": field("group_segment_fixed_size") or int(compiled.metadata.shared),
        "stack": field("private_segment_fixed_size"),
        "spills": field("vgpr_spill_count") + field("sgpr_spill_count"),
        "matrix": _count(chip.matrix, lines),
        "special": _count(r"^v_(exp|log|rcp|rsq|sqrt|sin|cos)_f", lines),
        "instructions": len(lines) if "s_endpgm" in text else 0,
    }


def _count(pattern: str, lines: list[str]) -> int:
    return sum(bool(re.search(pattern, line)) for line in lines)


COLUMNS = (
    "kernel", "configuration", "chip", "registers", "shared", "stack", "spills", "matrix", "special", "instructions",
)  # fmt: skip
"""Of the printed table; instructions and special functions per pair, and seconds, come after them."""


def compile_chip(
    name: str, tables: dict[str, tuple[int, ...]], only: Sequence[str] = (), main: bool = False
) -> tuple[list[Facts], list[str]]:
    """Facts of every launch for one chip, and a line for each kernel that nothing launched."""
    from triton.backends.compiler import GPUTarget

    from .launches import compile_launches, missing

    chip = CHIPS[name]
    target = GPUTarget(chip.backend, chip.arch, chip.warp)
    kernels = compile_launches(target, chip.kind, tables, only, main)
    facts = [Facts(k.kernel, k.configuration, name, k.needs_matrix, **read(k.code, chip), seconds=k.seconds, pairs=k.pairs)
             for k in kernels]  # fmt: skip
    return facts, missing([f.kernel for f in facts], only)


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


def per_pair(kernel: Row, field: str) -> float | None:
    """Instructions over the pairs that a thread works on, as `Facts` counts them; None without pairs."""
    return float(kernel[field]) / kernel["pairs"] if kernel["pairs"] else None


@shows("compile_check.json")
def report(record: Row) -> str:
    """What the machine code of every shipped kernel holds: a line per kernel and configuration, a column per chip."""
    groups: dict[tuple[str, str], dict[str, Row]] = {}
    for kernel in record["kernels"]:
        groups.setdefault((kernel["kernel"], kernel["configuration"]), {})[kernel["chip"]] = kernel
    chips = list(dict.fromkeys(kernel["chip"] for kernel in record["kernels"]))
    rows = [
        [f"`{name}` {configuration}", *(_machine_code(group[chip]) if chip in group else "" for chip in chips)]
        for (name, configuration), group in sorted(groups.items())
    ]
    spills = sum(kernel["spills"] for kernel in record["kernels"])
    wrong = "; ".join(record["violations"]) or "none"
    text = "registers / KB shared / matrix instructions / special functions (per pair where a kernel walks pairs, else in all)"
    head = f"{len(record['kernels'])} compiled kernels, {spills} spills, violations: {wrong}; {text}"
    return f"{head}:\n\n{markdown(['kernel and configuration', *chips], rows)}"


def _machine_code(kernel: Row) -> str:
    special = per_pair(kernel, "special")
    last = str(kernel["special"]) if special is None else f"{special:.2f}"
    return f"{kernel['registers']} / {kernel['shared'] / 1024:.0f} / {kernel['matrix']} / {last}"


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
