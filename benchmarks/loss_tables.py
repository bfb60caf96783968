"""Tables about the losses, from the committed result files and from nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from . import cost_model, records
from .peers import LIMIT, OURS
from .records import UNMEASURED, Row, load, origin, shows, table

SCORE_KERNEL = ("sigmoid_tile", "sm_90", "bfloat16", {"STORE=1", "SUMS=1"})
"""Kernel, chip, dtype and flags whose instructions the cost model takes."""


def _shape(row: Row) -> str:
    return " × ".join(f"{size:,}" for size in row["shape"])


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def _digits(row: Row) -> int:
    return 0 if row["seconds"] >= 0.1 else 1 if row["seconds"] >= 0.01 else 3


def _ms(row: Row, digits: int | None = None) -> str:
    """Median."""
    return f"{1e3 * row['seconds']:,.{_digits(row) if digits is None else digits}f}"


def _quartiles(row: Row, digits: int | None = None) -> str:
    """Median, and quartiles behind it."""
    digits = _digits(row) if digits is None else digits
    low, high = (f"{1e3 * q:,.{digits}f}" for q in row["quartiles"])
    return f"{_ms(row, digits)} ({low}–{high})"


def _mb(row: Row) -> str:
    size = row.get("peak_bytes")
    return "-" if size is None else f"{size / 1e6:,.0f}"


@shows("cpu/ppcl.json")
def losses(record: Row) -> str:
    """Time and memory of everyone on one case."""
    rows = []
    for row in record["rows"]:
        if "failed" in row:
            rows.append([row["contender"], f"failed: {row['failed']}", "", "", ""])
        elif "absent" not in row:
            times = (_ratio(row["times_ours"]), _ratio(row["times_limit"]))
            rows.append([row["contender"], _quartiles(row), _mb(row), *times])
    first = record["rows"][0]
    head = ["", "ms (quartiles)", "MB above inputs and gradients", "time / ours", "time / limit"]
    return f"N × M × D = {_shape(first)}, {first['dtype']}, {origin(record)}:\n\n{table(head, rows)}"


@shows("cpu/limit.json")
def limit(record: Row) -> str:
    """The ratio to the three products, case by case."""
    cells = {(row["case"], row["contender"]): row for row in record["rows"] if "seconds" in row}
    others = [name for name in dict.fromkeys(who for _, who in cells) if name not in (OURS, LIMIT)]
    rows = []
    for case in dict.fromkeys(row["case"] for row in record["rows"]):
        own, bare = cells.get((case, OURS)), cells.get((case, LIMIT))
        if own is None or bare is None:
            rows.append([case, *["failed"] * (4 + len(others))])
            continue
        ratios = [_ratio(cells[case, who]["times_limit"]) if (case, who) in cells else "-" for who in others]
        rows.append([case, _quartiles(own), _quartiles(bare), f"**{_ratio(own['times_limit'])}**", *ratios, _mb(own)])
    first = record["rows"][0]
    products = [f"{name} / products" for name in ("ours", *others)]
    head = ["case", "ours, ms (quartiles)", "three products, ms", *products, "MB"]
    text = f"N × M × D = {_shape(first)}, {first['dtype']}, {origin(record)}"
    return f"{text}; MB: peak of ours above inputs and gradients:\n\n{table(head, rows)}"


def elementwise() -> str:
    """Everyone's time and memory on the matrix of inclusions, forward and with gradients: a table for each run."""
    names = ("cpu/elementwise.json", "cpu/elementwise-gradients.json")
    return "\n\n".join(_elementwise(record) for name in names if (record := load(name))) or UNMEASURED


def _elementwise(record: Row) -> str:
    rows = []
    for row in record["rows"]:
        figures = [row.get("failed") or row.get("absent", "-"), "", ""]
        if "seconds" in row:
            figures = [_quartiles(row, 1), f"{row['times_ours']:.2f}", _mb(row)]
        rows.append([row["case"], _shape(row), row["contender"], *figures])
    head = ["case", "N × M × D", "", "ms (quartiles)", "time / ours", "MB above inputs and gradients"]
    return f"float32, {origin(record)}:\n\n{table(head, rows)}"


@shows("cpu/step.json")
def step(record: Row) -> str:
    """The losses of a ProLAP step."""
    rows = []
    for row in record["rows"]:
        figures = [row.get("failed", "-"), "", "", ""]
        if "seconds" in row:
            operators = "-" if row.get("operators") is None else str(row["operators"])
            figures = [_quartiles(row, 1), f"{row['times_ours']:.2f}", _mb(row), operators]
        rows.append([row["contender"], *figures])
    head = ["", "ms (quartiles)", "time / ours", "MB", "operators"]
    text = f"Batch 256, D = 1,024, forward and backward, float32, {origin(record)}"
    return f"{text}:\n\n{table(head, rows)}"


@shows("cpu/memory.json")
def memory(record: Row) -> str:
    """Peaks of what looks at all scores, in blocks and by the matrix."""
    cells: dict[tuple[str, str], dict[str, Row]] = {}
    for row in record["rows"]:
        cells.setdefault((row["case"], _shape(row)), {})[row["way"]] = row
    rows = []
    for (case, shape), ways in cells.items():
        size = f"{ways['blocks']['matrix_bytes'] / 1e6:,.0f}"
        rows.append([f"`{case}`", shape, *_peak(ways["blocks"]), *_peak(ways["matrix"], f"{size} alone")])
    head = ["case", "N × M × D", "blocks, MB", "s", "by the matrix, MB", "s"]
    return f"Peak above inputs and results, float32, {origin(record)}:\n\n{table(head, rows)}"


def _peak(row: Row, absent: str = "-") -> list[str]:
    """MB and seconds; `absent` where there was no room."""
    if "absent" in row:
        return [absent, "-"]
    return ["failed", "-"] if "failed" in row else [_mb(row), f"{row['seconds']:.2f}"]


def per_pair(kernel: Row, field: str) -> float | None:
    """Instructions over the pairs that a thread works on, as `machine_code.Facts` counts them; None without pairs."""
    return float(kernel[field]) / kernel["pairs"] if kernel["pairs"] else None


@shows("compile_check.json")
def compiled(record: Row) -> str:
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
    return f"{head}:\n\n{table(['kernel and configuration', *chips], rows)}"


def _machine_code(kernel: Row) -> str:
    special = per_pair(kernel, "special")
    last = str(kernel["special"]) if special is None else f"{special:.2f}"
    return f"{kernel['registers']} / {kernel['shared'] / 1024:.0f} / {kernel['matrix']} / {last}"


def bilinear_model() -> str:
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
            costs = cost_model.bilinear(65_536, (512, 768, 1024), instructions, special, (rows, columns))
            return f"{text}, all of the kernel counted:\n\n{costs}"
    return UNMEASURED


def gpu() -> str:
    """Targets, then the sweep, of every device that was measured."""
    paths = sorted((records.RESULTS / "gpu").glob("*.json"))
    parts = [device(json.loads(path.read_text())) for path in paths]
    return "\n\n".join(part for part in parts if part) or "Not measured on a GPU yet: every cell is open."


def device(record: Row) -> str:
    """Of one session; a dry run is never shown."""
    if record["dry_run"]:
        return ""
    sections: dict[str, list[Row]] = record["sections"]
    probes = [r for r in sections.get("correctness", []) if "probe" in r]
    wrong = sum("failed" in r for r in probes)
    reached = ", ".join(f"{r['ceiling']} {r['rate']:.3g}" for r in sections.get("ceilings", []) if "rate" in r)
    sanitized = [f"{r['tool']} {r['case']}: {r.get('summary', r.get('skipped'))}"
                 for r in sections.get("sanitizer", []) if "tool" in r]  # fmt: skip
    parts = [
        f"**{origin(record)}**, {record['time'][:10]}. Within the bounds against float64: {len(probes) - wrong} of {len(probes)} "
        f"results; sanitizer: {sanitized or 'not run'}; reached on large operands: {reached or 'not measured'}.",
        _targets(sections.get("targets", [])),
        _sweep([r for name in ("key", "sweep") for r in sections.get(name, []) if "contender" in r]),
        _candidates(sections.get("candidates", [])),
    ]
    return "\n\n".join(part for part in parts if part)


def _targets(rows: Sequence[Row]) -> str:
    word = {True: "passed", False: "**failed**", None: "unmeasured"}
    return table(["target", "asked", "measured", ""], [
        [r["target"], r["asked"].replace("<=", "≤").replace(">=", "≥"), "-" if r["value"] is None else f"{r['value']:.3g}",
         word[r["passed"]]]
        for r in rows if "target" in r
    ])  # fmt: skip


def _sweep(rows: Sequence[Row]) -> str:
    """A line per case, size and dtype: ours and the limit in ms, everyone else as a multiple of ours."""
    cells: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in rows:
        cells.setdefault((row["case"], row["dtype"], row["shape"][2], row["shape"][0]), {})[row["contender"]] = row
    others = [who for who in dict.fromkeys(r["contender"] for r in rows if "seconds" in r) if who not in (OURS, LIMIT)]
    lines = []
    for (case, dtype, width, size), group in sorted(cells.items()):
        own, bare = group.get(OURS, {}), group.get(LIMIT, {})
        figures = [own.get("failed", "-"), *["-"] * (3 + len(others))]
        if "seconds" in own:
            share = [_ms(bare), _ratio(own["times_limit"])] if "seconds" in bare else ["-", "-"]
            times = [_ratio(group[who]["times_ours"]) if "times_ours" in group.get(who, {}) else "-" for who in others]
            figures = [_ms(own), *share, _mb(own), *times]
        lines.append([case, dtype, f"{size:,}", str(width), *figures])
    head = ["case", "dtype", "B", "D", "ours, ms", "three products, ms", "ours / products", "MB"]
    return table([*head, *(f"{name} / ours" for name in others)], lines) if lines else ""


def _candidates(rows: Sequence[Row]) -> str:
    tried = [r for r in rows if "seconds" in r or "failed" in r]
    lines = [[r["table"], r["form"], _quartiles(r) if "seconds" in r else f"failed: {r['failed']}"] for r in tried]
    return table(["candidate", "rows x columns x depth x warps x stages", "ms (quartiles)"], lines) if lines else ""
