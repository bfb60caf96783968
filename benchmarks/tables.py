"""Tables about speed, from the committed result files and from nothing else; `benchmarks.report` puts them into documents."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from . import cost_model
from .environment import ROOT
from .peers import LIMIT, OURS

RESULTS = ROOT / "benchmarks" / "results"
UNMEASURED = "Not measured yet."
Row = dict[str, Any]


def load(name: str) -> Any:
    """The content of a result file, None where there is none."""
    path = RESULTS / name
    return json.loads(path.read_text()) if path.is_file() else None


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def origin(found: Row) -> str:
    """Device, threads, versions, commit (+: tracked files differed from it)."""
    versions, known = found["versions"], found["commit"] != "unknown"
    code = (
        f"commit {str(found['commit'])[:7]}{'+' if found['dirty'] else ''}" if known else f"sources {found['sources']}"
    )
    where = f"{found['device']}, " + ("" if "gpu" in found else f"{found['threads']} threads, ")
    triton = f", triton {versions['triton']}" if "gpu" in found else ""
    return f"{where}torch {versions['torch']}{triton}, {code}"


def _shape(row: Row) -> str:
    return " × ".join(f"{size:,}" for size in row["shape"])


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def _ms(row: Row, spread: bool = True) -> str:
    """Median, and quartiles behind it."""
    digits = 0 if row["seconds"] >= 0.1 else 1 if row["seconds"] >= 0.01 else 3
    middle = f"{1e3 * row['seconds']:,.{digits}f}"
    if not spread:
        return middle
    low, high = (f"{1e3 * q:,.{digits}f}" for q in row["quartiles"])
    return f"{middle} ({low}–{high})"


def losses() -> str:
    """Time and memory of everyone on one case."""
    found = load("cpu/ppcl.json")
    if found is None:
        return UNMEASURED
    rows = []
    for row in found["rows"]:
        if "absent" in row:
            continue
        if "failed" in row:
            rows.append([row["contender"], f"failed: {row['failed']}", "", "", ""])
            continue
        memory = f"{row['peak_bytes'] / 1e6:,.0f}" if "peak_bytes" in row else "-"
        rows.append([row["contender"], _ms(row), memory, _ratio(row["times_ours"]), _ratio(row["times_limit"])])
    first = found["rows"][0]
    head = ["", "ms (quartiles)", "MB above inputs and gradients", "time / ours", "time / limit"]
    return f"N × M × D = {_shape(first)}, {first['dtype']}, {origin(found)}:\n\n{table(head, rows)}"


def limit() -> str:
    """The ratio to the three products, case by case."""
    found = load("cpu/limit.json")
    if found is None:
        return UNMEASURED
    cells = {(row["case"], row["contender"]): row for row in found["rows"] if "seconds" in row}
    others = [name for name in dict.fromkeys(who for _, who in cells) if name not in (OURS, LIMIT)]
    rows = []
    for case in dict.fromkeys(row["case"] for row in found["rows"]):
        own, bare = cells.get((case, OURS)), cells.get((case, LIMIT))
        if own is None or bare is None:
            rows.append([case, *["failed"] * (4 + len(others))])
            continue
        ratios = [_ratio(cells[case, who]["times_limit"]) if (case, who) in cells else "-" for who in others]
        rows.append(
            [case, _ms(own), _ms(bare), f"**{_ratio(own['times_limit'])}**", *ratios, f"{own['peak_bytes'] / 1e6:,.0f}"]
        )
    first = found["rows"][0]
    head = [
        "case",
        "ours, ms (quartiles)",
        "three products, ms",
        "ours / products",
        *(f"{o} / products" for o in others),
        "MB",
    ]
    text = (
        f"N × M × D = {_shape(first)}, {first['dtype']}, {origin(found)}; MB: peak of ours above inputs and gradients"
    )
    return f"{text}:\n\n{table(head, rows)}"


def memory() -> str:
    """Peaks of what looks at all scores, in blocks and by the matrix."""
    found = load("cpu/memory.json")
    if found is None:
        return UNMEASURED
    cells: dict[tuple[str, str], dict[str, Row]] = {}
    for row in found["rows"]:
        cells.setdefault((row["case"], _shape(row)), {})[row["way"]] = row
    rows = []
    for (case, shape), group in cells.items():
        own, dense = _peak(group["blocks"]) or ["-", "-"], _peak(group["matrix"])
        size = f"{group['blocks']['matrix_bytes'] / 1e6:,.0f}"
        rows.append([f"`{case}`", shape, own[0], own[1], *([f"{size} alone", "-"] if dense is None else dense)])
    head = ["case", "N × M × D", "blocks, MB", "s", "by the matrix, MB", "s"]
    return f"Peak above inputs and results, float32, {origin(found)}:\n\n{table(head, rows)}"


def _peak(row: Row) -> list[str] | None:
    """MB and seconds; None where there was no room."""
    if "absent" in row:
        return None
    return ["failed", "-"] if "failed" in row else [f"{row['peak_bytes'] / 1e6:,.0f}", f"{row['seconds']:.2f}"]


def per_pair(kernel: Row, field: str) -> float | None:
    """Instructions over the pairs that a thread works on, as `machine_code.Facts` counts them; None without pairs."""
    return float(kernel[field]) / kernel["pairs"] if kernel["pairs"] else None


def compiled() -> str:
    """What the machine code of every shipped kernel holds: a line per kernel and configuration, a column per chip."""
    found = load("compile_check.json")
    if found is None:
        return UNMEASURED
    groups: dict[tuple[str, str], dict[str, Row]] = {}
    for kernel in found["kernels"]:
        groups.setdefault((kernel["kernel"], kernel["configuration"]), {})[kernel["chip"]] = kernel
    chips = list(dict.fromkeys(kernel["chip"] for kernel in found["kernels"]))
    rows = [
        [f"`{name}` {configuration}", *(_machine(group[chip]) if chip in group else "" for chip in chips)]
        for (name, configuration), group in sorted(groups.items())
    ]
    text = "registers / KB shared / matrix instructions / special functions (per pair where a kernel walks pairs, else in all)"
    spills = sum(kernel["spills"] for kernel in found["kernels"])
    wrong = "; ".join(found["violations"]) or "none"
    head = f"{len(found['kernels'])} compiled kernels, {spills} spills, violations: {wrong}; {text}"
    return f"{head}:\n\n{table(['kernel and configuration', *chips], rows)}"


def _machine(kernel: Row) -> str:
    special = per_pair(kernel, "special")
    last = str(kernel["special"]) if special is None else f"{special:.2f}"
    return f"{kernel['registers']} / {kernel['shared'] / 1024:.0f} / {kernel['matrix']} / {last}"


def model() -> str:
    """The cost model at the instructions that the compiler made of the score kernel for an H100."""
    found = load("compile_check.json") or {"kernels": []}
    for kernel in found["kernels"]:
        dtype, tile, *flags = kernel["configuration"].split()
        where = (kernel["kernel"], kernel["chip"], dtype, set(flags))
        if where == ("sigmoid_lift_tile", "sm_90", "bfloat16", {"STORE=1", "SUMS=1"}):
            instructions, special = per_pair(kernel, "instructions"), per_pair(kernel, "special")
            assert instructions is not None
            assert special is not None
            rows, columns = map(int, tile.split("x")[:2])
            text = f"A tile of {rows} × {columns}; {instructions:.0f} instructions and {special:.1f} special functions a pair"
            text += ", all of the kernel counted"
            return f"{text}:\n\n{cost_model.table(65_536, (512, 768, 1024), instructions, special, (rows, columns))}"
    return UNMEASURED


def gpu() -> str:
    """Targets, then the sweep, of every device that was measured."""
    paths = sorted((RESULTS / "gpu").glob("*.json"))
    parts = [_device(json.loads(path.read_text())) for path in paths]
    return "\n\n".join(part for part in parts if part) or "Not measured on a GPU yet: every cell is open."


def _device(found: Row) -> str:
    if found["dry_run"]:
        return ""
    sections: dict[str, list[Row]] = found["sections"]
    probes = [r for r in sections.get("correctness", []) if "probe" in r]
    wrong = sum("failed" in r for r in probes)
    reached = ", ".join(f"{r['ceiling']} {r['rate']:.3g}" for r in sections.get("ceilings", []) if "rate" in r)
    checked = [
        f"{r['tool']} {r['case']}: {r.get('summary', r.get('skipped'))}"
        for r in sections.get("sanitizer", [])
        if "tool" in r
    ]
    lines = [
        f"**{origin(found)}**, {found['time'][:10]}. Within the bounds against float64: {len(probes) - wrong} of {len(probes)} "
        f"results; sanitizer: {checked or 'not run'}; reached on large operands: {reached or 'not measured'}.",
        _targets(sections.get("targets", [])),
        _sweep([r for name in ("key", "sweep") for r in sections.get(name, []) if "contender" in r]),
        _candidates(sections.get("candidates", [])),
    ]
    return "\n\n".join(line for line in lines if line)


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
        if "seconds" not in own:
            lines.append([case, dtype, f"{size:,}", str(width), own.get("failed", "-"), *["-"] * (3 + len(others))])
            continue
        share = [_ms(bare, False), _ratio(own["times_limit"])] if "seconds" in bare else ["-", "-"]
        times = [_ratio(group[who]["times_ours"]) if "times_ours" in group.get(who, {}) else "-" for who in others]
        lines.append(
            [case, dtype, f"{size:,}", str(width), _ms(own, False), *share, f"{own['peak_bytes'] / 1e6:,.0f}", *times]
        )
    head = [
        "case",
        "dtype",
        "B",
        "D",
        "ours, ms",
        "three products, ms",
        "ours / products",
        "MB",
        *(f"{o} / ours" for o in others),
    ]
    return table(head, lines) if lines else ""


def _candidates(rows: Sequence[Row]) -> str:
    tried = [r for r in rows if "seconds" in r or "failed" in r]
    lines = [[r["table"], r["form"], _ms(r) if "seconds" in r else f"failed: {r['failed']}"] for r in tried]
    return table(["candidate", "rows x columns x depth x warps x stages", "ms (quartiles)"], lines) if lines else ""
