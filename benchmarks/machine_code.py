"""What a compiled kernel's machine code says about it, and the limits that it must keep."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple


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
