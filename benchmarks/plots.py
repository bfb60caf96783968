"""Plots of result rows: time and memory against the batch size, achieved share of the limit, or elements per second where there
is no limit. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .peers import LIMIT

Row = dict[str, Any]


def plot_rows(rows: Sequence[Row], folder: Path) -> list[Path]:
    """One PNG for each case, dtype and width that was measured; rows without a time are left out."""
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        if "seconds" in row:
            groups.setdefault((row["case"], row["dtype"], row["shape"][2]), []).append(row)
    folder.mkdir(parents=True, exist_ok=True)
    return [_plot(key, group, folder) for key, group in groups.items()]


def _plot(key: tuple[str, str, int], rows: Sequence[Row], folder: Path) -> Path:
    from matplotlib.figure import Figure

    case, dtype, width = key
    tile = any("elements_per_second" in row for row in rows)
    figure = Figure(figsize=(13, 4), layout="constrained")
    panels: list[tuple[str, Callable[[Row], float | None]]] = [
        ("time, ms", lambda row: 1e3 * row["seconds"]),
        (
            "memory above inputs and gradients, MB",
            lambda row: row["peak_bytes"] / 1e6 if row.get("peak_bytes") else None,
        ),
        ("elements per second", lambda row: row["elements_per_second"])
        if tile
        else ("share of the limit's speed", lambda row: 1 / row["times_limit"] if "times_limit" in row else None),
    ]
    for axes, (label, value) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for name in dict.fromkeys(row["contender"] for row in rows):
            points = sorted((row["shape"][0], value(row)) for row in rows if row["contender"] == name and value(row))
            if points:
                style = "--" if name == LIMIT else "-"
                axes.plot(*zip(*points, strict=True), style, marker="o", markersize=3, label=name)
        axes.set_xscale("log", base=2)
        axes.set_yscale("linear" if label.startswith("share") else "log")
        axes.set_xlabel("rows of a batch")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize="small")
    figure.suptitle(f"{case}, {dtype}, D = {width}, {rows[0].get('passes', 'forward and backward')}")
    path = folder / f"{case}-{dtype}-{width}.png"
    figure.savefig(path, dpi=150)
    return path
