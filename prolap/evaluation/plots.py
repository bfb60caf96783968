"""The plots of a run, as PNG files. Matplotlib is imported late and drawn without a display."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from prolap.evaluation.captions import LEVELS
from prolap.evaluation.protocol import Evidence
from prolap.evaluation.traversal import Walk
from prolap.utils.environment import optional

_LEVEL_NAMES = ("0 general", "1", "2", "3 specific")
_COLOURS = ("#d1495b", "#edae49", "#66a182", "#2e4057")
_DPI = 130
_LEAST = 3  # captions of a length whose mean is drawn
_LEAST_COVERAGE = 0.05  # a handful of queries says nothing yet
_ROW_HEIGHT = 0.36  # inches
_LINE = 0.42  # height of a line of a clip's chain, in rows
_WIDE, _LOG_SPAN = 50, 1e3  # highest over lowest value of a logarithmic axis; the most that it shows
_DEV_LABELS = {"t2a": "text to audio", "a2t": "audio to text", "mean": "mean"}
_STEPS = 9  # of a walk that are drawn; of a longer one the first and last four
UNIT = "uncertainty u (mean log-variance, nats)"


def _figure(columns: int = 1, width: float = 6.4, height: float = 4.2) -> tuple[Any, Any]:
    kind = optional("matplotlib.figure", "plots need matplotlib").Figure
    figure = kind(figsize=(width * columns, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.ticklabel_format(useOffset=False)
    return figure, axes


def _save(figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI)
    return path


def _legend_below(axis: Any, columns: int) -> None:
    axis.legend(
        fontsize=8, frameon=False, markerscale=1.8, ncols=columns, loc="upper center", bbox_to_anchor=(0.5, -0.14)
    )


def uncertainty_plot(metrics: Mapping[str, Any], evidence: Evidence, path: Path) -> Path:
    """Left: u against length, real captions by level beside random words. Right: u by level at matched length."""
    figure, (left, right) = _figure(2)
    table, section = evidence.captions, metrics["uncertainty"]
    jitter = np.random.default_rng(0).uniform(-0.25, 0.25, len(table["u"]))
    for level, colour in enumerate(_COLOURS):
        rows = table["level"] == level
        if rows.any():
            style = {"s": 9, "alpha": 0.55, "color": colour, "linewidths": 0, "label": f"level {_LEVEL_NAMES[level]}"}
            left.scatter(table["length"][rows] + jitter[rows], table["u"][rows], **style)
    words, times = np.unique(table["length"], return_counts=True)
    lengths = words[times >= _LEAST]
    means = [table["u_random"][table["length"] == n].mean() for n in lengths]
    left.plot(lengths, means, color="black", linestyle="--", linewidth=1.4, label="random words, mean")
    left.set(xlabel="caption length (words)", ylabel=UNIT)
    real, random = (_text(section[f"length_spearman{end}"]) for end in ("", "_random_words"))
    left.set_title(f"Spearman of length with u {real}, random words {random}", fontsize=10)
    _legend_below(left, 3)
    _levels_axis(right, table, section)
    return _save(figure, path)


def _levels_axis(axis: Any, table: Mapping[str, Any], section: Mapping[str, Any]) -> None:
    matched = section.get("by_level_matched") or {"lengths": [], "mean": [None] * LEVELS}
    comparable = np.isin(table["length"], matched["lengths"])
    for level, colour in enumerate(_COLOURS):
        values = table["u"][comparable & (table["level"] == level)]
        if len(values):
            box = axis.boxplot([values], positions=[level], widths=0.5, showfliers=False, patch_artist=True)
            box["boxes"][0].set(facecolor=colour, alpha=0.35, edgecolor=colour)
            box["medians"][0].set(color=colour)
    points = [(k, v) for k, v in enumerate(matched["mean"]) if v is not None]
    if points:
        axis.plot(*zip(*points, strict=True), color="black", marker="o", linewidth=1.4, label="mean, each length once")
        _legend_below(axis, 1)
    else:
        axis.text(0.5, 0.5, "no length is shared by all levels", ha="center", va="center", transform=axis.transAxes)
    axis.set_xticks(range(LEVELS), _LEVEL_NAMES)
    axis.set(xlabel="level of the caption", ylabel=UNIT)
    span = f"{min(matched['lengths'])} to {max(matched['lengths'])} words" if matched["lengths"] else "none"
    axis.set_title(f"matched length ({span}), partial {_text(section['level_partial'])}", fontsize=10)


def mask_plot(evidence: Evidence, path: Path) -> Path:
    """u against the share of tokens masked, mean and quartiles, both modalities."""
    figure, axes = _figure(2)
    for axis, (name, colour) in zip(axes, (("audio", "#2e4057"), ("text", "#d1495b")), strict=True):
        row = evidence.sweep[name]
        axis.fill_between(
            row["ratio"], row["low"], row["high"], color=colour, alpha=0.2, linewidth=0, label="quartiles"
        )
        axis.plot(row["ratio"], row["mean"], color=colour, marker="o", label="mean")
        axis.set(xlabel="share of tokens masked", ylabel=UNIT, xlim=(-0.02, 1.0))
        axis.set_title(name, fontsize=10)
        axis.legend(fontsize=8, frameon=False)
    return _save(figure, path)


def traversal_plot(evidence: Evidence, path: Path) -> Path:
    """Three walks, one panel each: the captions met in order, filled where their meaning is in the clip's chain."""
    longest = max((min(len(walk.steps), _STEPS) for walk in evidence.walks), default=1)
    lines = max((sum(_wrap(text, 60).count("\n") + 1 for text in walk.chain) for walk in evidence.walks), default=1)
    rows = longest + math.ceil(_LINE * (lines + 1) + 1)
    figure, axes = _figure(3, width=5.2, height=_ROW_HEIGHT * rows + 1.3)
    for axis in axes:
        axis.set_axis_off()
    for axis, walk in zip(axes, evidence.walks, strict=False):
        _walk_axis(axis, walk, rows)
    figure.suptitle(
        "Walks from the nearest caption (t = 0) to the label-free root (t = 1): "
        "clips at the upper quartile, median and lower quartile of precision",
        fontsize=11,
    )
    for level, colour in enumerate(_COLOURS):
        axes[0].scatter([], [], s=46, color=colour, label=f"level {_LEVEL_NAMES[level]}")
    axes[0].scatter([], [], s=46, facecolors="white", edgecolors="0.4", label="hollow: not in the clip's chain")
    figure.legend(loc="outside lower center", ncols=5, fontsize=9, frameon=False)
    return _save(figure, path)


def _walk_axis(axis: Any, walk: Walk, height: int) -> None:
    """The steps of a walk from the top down, a row each, and the clip's chain under them; `height` in rows."""
    steps, ends = walk.steps, _STEPS // 2
    shown = steps if len(steps) <= _STEPS else [*steps[:ends], None, *steps[-ends:]]
    rows = -1.0 - np.arange(len(shown))
    axis.set(xlim=(0, 1), ylim=(-height, 0))
    axis.text(0.03, -0.3, "t", va="center", ha="right", fontsize=8, color="0.45", style="italic")
    axis.plot([0.08] * len(rows), rows, color="0.75", linewidth=1.2, zorder=1)
    for y, step in zip(rows, shown, strict=True):
        if step is None:
            axis.text(0.14, y, f"... {len(steps) - 2 * ends} more ...", va="center", fontsize=8, color="0.45")
            continue
        colour = _COLOURS[step.level] if 0 <= step.level < LEVELS else "0.5"
        axis.scatter([0.08], [y], s=46, zorder=2, edgecolors=colour, facecolors=colour if step.in_chain else "white")
        axis.text(0.14, y, _wrap(step.text, 54), va="center", fontsize=8, linespacing=1.05)
        axis.text(0.03, y, f"{step.first:.2f}", va="center", ha="right", fontsize=7, color="0.45")
    chain = [f"{level}: {_wrap(text, 60, '    ')}" for level, text in enumerate(walk.chain)]
    axis.text(0.0, rows[-1] - 0.8, "the clip's chain\n" + "\n".join(chain), va="top", fontsize=8, color="0.25")
    axis.set_title(f"{_wrap(walk.name, 44)}: precision {walk.precision:.2f}", fontsize=10)


def _wrap(text: str, width: int, indent: str = "") -> str:
    return "\n".join(textwrap.wrap(text, width, subsequent_indent=indent, max_lines=2, placeholder=" ...")) or '""'


def loss_plot(log: Path, path: Path) -> Path | None:
    """Loss terms over optimiser steps from a JSONL log of rows {"step": ..., "loss/<name>": ...}; None without any.

    Beside them R@1 on dev, from dev.jsonl beside the log, where there is one. Axes start at 0, the floor of a loss, or, on a
    logarithmic axis, a thousandth of the highest value below which nothing is drawn.
    """
    terms = _series(log, "loss/")
    if not terms:
        return None
    dev = _series(log.with_name("dev.jsonl"), "r1_")
    figure, axes = _figure(len(terms) + bool(dev), width=3.6, height=3.4)
    for axis, (name, points) in zip(axes, sorted(terms.items()), strict=False):
        steps, values = np.array(sorted(points)).T
        axis.plot(steps, values, color="#2e4057", linewidth=1.2)
        axis.set(xlabel="optimiser step", ylabel="loss, unweighted (nats)")
        axis.set_title(name, fontsize=10)
        if values.min() > 0 and values.max() / values.min() > _WIDE:
            axis.set_yscale("log")
            axis.set_ylim(bottom=max(values.min() / 2, values.max() / _LOG_SPAN))
        elif values.min() >= 0:
            axis.set_ylim(bottom=0)
    for (name, points), colour in zip(sorted(dev.items()), _COLOURS, strict=False):
        steps, values = np.array(sorted(points)).T
        axes[-1].plot(steps, 100 * values, color=colour, marker=".", label=_DEV_LABELS.get(name, name))
    if dev:
        axes[-1].set(xlabel="optimiser step", ylabel="R@1 (%)")
        axes[-1].set_ylim(bottom=0)
        axes[-1].set_title("dev", fontsize=10)
        axes[-1].legend(fontsize=8, frameon=False)
    return _save(figure, path)


def _series(log: Path, prefix: str) -> dict[str, list[tuple[float, float]]]:
    """(step, value) by name of the finite numbers whose names begin with `prefix`; damaged lines are left out."""
    series: dict[str, list[tuple[float, float]]] = {}
    for line in log.read_bytes().splitlines() if log.is_file() else ():
        try:
            row = json.loads(line)
            step = float(row["step"])
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        for key, value in row.items():
            if key.startswith(prefix) and isinstance(value, int | float) and np.isfinite(value):
                series.setdefault(key.removeprefix(prefix), []).append((step, value))
    return series


def risk_plot(evidence: Evidence, path: Path) -> Path:
    """R@1 against the share of queries answered, the least uncertain first; dashed: leaving out at random."""
    figure, (axis,) = _figure()
    for (name, label), colour in zip((("t2a", "text to audio"), ("a2t", "audio to text")), _COLOURS[::3], strict=True):
        curve = evidence.risk[name]
        shown = curve.coverage >= _LEAST_COVERAGE
        axis.plot(100 * curve.coverage[shown], 100 * curve.hit_rate[shown], color=colour, label=label)
        axis.axhline(100 * curve.hit_rate[-1], color=colour, linestyle="--", linewidth=1, alpha=0.6)
    axis.set(xlabel="queries answered, least uncertain first (%)", ylabel="R@1 (%)", xlim=(0, 100))
    axis.legend(fontsize=8, frameon=False)
    axis.set_title("dashed: the same share left out at random", fontsize=10)
    return _save(figure, path)


def write_plots(
    metrics: Mapping[str, Any], evidence: Evidence, folder: str | Path, *, log: str | Path | None = None
) -> list[Path]:
    """Every plot whose input there is, into `folder`; returns their paths. `log`: the run's JSONL log."""
    out = Path(folder)
    written: list[Path | None] = []
    if evidence.captions and metrics.get("uncertainty"):
        written.append(uncertainty_plot(metrics, evidence, out / "uncertainty.png"))
    if evidence.sweep:
        written.append(mask_plot(evidence, out / "masking.png"))
    if evidence.walks:
        written.append(traversal_plot(evidence, out / "traversal.png"))
    if evidence.risk:
        written.append(risk_plot(evidence, out / "risk_coverage.png"))
    if log is not None:
        written.append(loss_plot(Path(log), out / "losses.png"))
    return [path for path in written if path is not None]


def _text(value: float | None) -> str:
    return "undefined" if value is None else f"{value:+.2f}"
