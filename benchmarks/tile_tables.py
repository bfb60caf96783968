"""Tables about sums over dimensions and about the losses of a step, from the committed result files."""

from __future__ import annotations

from . import tile_model
from .tables import UNMEASURED, Row, load, origin, table


def _time(row: Row) -> str:
    low, high = (1e3 * q for q in row["quartiles"])
    return f"{1e3 * row['seconds']:,.1f} ({low:,.1f}–{high:,.1f})"


def tiles() -> str:
    """Everyone's time and memory on the matrix of inclusions, forward and with gradients: a table for each run."""
    parts = [_tiles(found) for name in ("cpu/tiles.json", "cpu/tiles-gradients.json") if (found := load(name))]
    return "\n\n".join(parts) or UNMEASURED


def _tiles(found: Row) -> str:
    lines = []
    for row in found["rows"]:
        place = [row["case"], " × ".join(f"{size:,}" for size in row["shape"]), row["contender"]]
        if "seconds" not in row:
            lines.append([*place, row.get("failed") or row.get("absent", "-"), "", ""])
            continue
        memory = f"{row['peak_bytes'] / 1e6:,.0f}" if "peak_bytes" in row else "-"
        lines.append([*place, _time(row), f"{row['times_ours']:.2f}", memory])
    head = ["case", "N × M × D", "", "ms (quartiles)", "time / ours", "MB above inputs and gradients"]
    return f"float32, {origin(found)}:\n\n{table(head, lines)}"


def step() -> str:
    """The losses of a ProLAP step."""
    found = load("cpu/step.json")
    if found is None:
        return UNMEASURED
    lines = []
    for row in found["rows"]:
        if "seconds" not in row:
            lines.append([row["contender"], row.get("failed", "-"), "", "", ""])
            continue
        memory = "-" if row.get("peak_bytes") is None else f"{row['peak_bytes'] / 1e6:,.0f}"
        count = "-" if row.get("operators") is None else str(row["operators"])
        lines.append([row["contender"], _time(row), f"{row['times_ours']:.2f}", memory, count])
    head = ["", "ms (quartiles)", "time / ours", "MB", "operators"]
    return (
        f"Batch 256, D = 1,024, forward and backward, float32, {origin(found['environment'])}:\n\n{table(head, lines)}"
    )


def predicted() -> str:
    """The cost model of inclusion."""
    return tile_model.table()
