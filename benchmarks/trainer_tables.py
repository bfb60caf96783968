"""Tables about the trainer, from the committed result files and from nothing else."""

from __future__ import annotations

import json
import statistics
from typing import Any

from prolap.evaluation.claims import figure

from . import records
from .records import RESULTS, UNMEASURED, Row, load, origin, shows, table

RECIPE_COLUMNS = {
    "R@1 A→T, %": ("retrieval.a2t.r1", 100),
    "R@1 T→A, %": ("retrieval.t2a.r1", 100),
    "location audio": ("inclusion.audio.location", 1),
    "location text": ("inclusion.text.location", 1),
    "partial ρ of level": ("uncertainty.level_partial", 1),
    "wordy general wider": ("uncertainty.wordy_general_rate", 1),
}
"""Title -> path into the metrics of a recipe, and what it is multiplied by."""


def read(metrics: Any, path: str) -> Any:
    """metrics["a"]["b"] for "a.b"; None where there is nothing."""
    for key in path.split("."):
        metrics = metrics.get(key) if isinstance(metrics, dict) else None
    return metrics


def recipes() -> str:
    """Mean and deviation over seeds of every recipe."""
    groups: dict[str, list[Row]] = {}
    for path in sorted((records.RESULTS / "recipes").glob("*.json")):
        record = json.loads(path.read_text())
        groups.setdefault(record["recipe"], []).append(record)
    if not groups:
        return UNMEASURED
    rows = []
    for name in sorted(groups, key=lambda n: (n != "preset", n)):
        cells = []
        for path, factor in RECIPE_COLUMNS.values():
            values = [factor * v for record in groups[name] if (v := read(record, path)) is not None]
            digits = 1 if factor == 100 else 2
            spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.{digits}f}{spread}" if values else "-")
        changed = ", ".join(f"`{word}`" for word in groups[name][0]["overrides"])
        rows.append([f"{name} ({changed})" if changed else name, str(len(groups[name])), *cells])
    note = "; ".join(sorted({origin(record) for group in groups.values() for record in group}))
    return f"{table(['recipe (what differs)', 'seeds', *RECIPE_COLUMNS], rows)}\n\n{note} (+: tracked files differed)"


@shows("quickstart/metrics.json")
def quickstart(record: Row) -> str:
    """Retrieval beside the baseline's, and the claims."""
    rows = []
    for key, label in (("a2t", "A→T"), ("t2a", "T→A")):
        for part, note in (("retrieval", ""), ("retrieval.unseen_sources", ", unseen sources")):
            sides = read(record, part), read(record, f"baseline.{part}")
            cells = [" / ".join(f"{100 * side[key][m]:.1f}" for side in sides) for m in ("r1", "r5", "r10", "map10")]
            rows.append([label + note, *cells])
    retrieval = table(["test, model / baseline, %", "R@1", "R@5", "R@10", "mAP@10"], rows)
    words = {True: "passed", False: "**failed**", None: "not measured"}
    claims = table(["claim", "value", "control", "threshold", ""], [
        [c["name"], _number(c["value"]), _number(c["control"]), f"{c['threshold']:g}", words[c["passed"]]]
        for c in record["claims"]
    ])  # fmt: skip
    versions = record["versions"]
    text = "; ".join([
        f"N = {record['retrieval']['n']:,} clips, chance {100 * record['retrieval']['chance_r1']:.1f} %",
        f"{versions['cpu']}, {versions['threads']} threads, commit {str(record['commit'])[:7]}, seed {record['seed']}",
        ", ".join(f"{name} {record['seconds'][name]:.0f} s" for name in ("render", "train", "evaluate", "total")),
    ])  # fmt: skip
    return f"{text}:\n\n{retrieval}\n\n{claims}"


def _number(value: float | None) -> str:
    return "-" if value is None else figure(value)


@shows("cpu/miniature.json")
def miniature(record: Row) -> str:
    """What the runs on recorded sound in the public layouts came to."""
    rows = []
    for name, run in record["runs"].items():
        retrieval = run["retrieval"]
        cells = [f"{100 * retrieval[way]['r1']:.1f} / {100 * retrieval[way]['map10']:.1f}" for way in ("t2a", "a2t")]
        command = f"`--preset {run['preset']} {' '.join(run['options'])}`"
        rows.append([f"{name}: {command}", str(retrieval["n"]), *cells, f"{100 * retrieval['chance_r1']:.1f}"])
    head = ["run", "N", "T→A R@1 / mAP@10, %", "A→T R@1 / mAP@10, %", "chance R@1, %"]
    origins = dict.fromkeys(origin(run["stamp"]) for run in record["runs"].values())
    return f"{'; '.join(origins)}; random initial weights:\n\n{table(head, rows)}"


def batch_memory() -> str:
    """Peak and speed of training steps by batch, chunk and checkpointing: a column for each kind of device."""
    sides = {"CPU": load("cpu/batch_memory.json"), "GPU": load("cuda/batch_memory.json")}
    if not any(sides.values()):
        return UNMEASURED
    cells: dict[tuple[Any, ...], dict[str, Row]] = {}
    for name, record in sides.items():
        for row in record["rows"] if record else ():
            key = tuple(row[field] for field in ("size", "batch", "chunk", "checkpointing"))
            cells.setdefault(key, {})[name] = row
    order = {size: number for number, size in enumerate(dict.fromkeys(key[0] for key in cells))}
    rows = []
    for key in sorted(cells, key=lambda key: (order[key[0]], *key[1:])):
        size, batch, chunk, checkpointing = key
        step = [size, f"{batch:,}", str(chunk or "-"), "yes" if checkpointing else "-"]
        rows.append([*step, *(cell for name in sides for cell in _peak_and_speed(cells[key].get(name)))])
    head = ["size", "batch", "chunk", "checkpointing", "CPU, GB", "pairs/s", "GPU, GB", "pairs/s"]
    origins = [f"{name}: {origin(record) if record else 'not measured'}" for name, record in sides.items()]
    return f"{'; '.join(origins)}; float32, weights and optimiser included:\n\n{table(head, rows)}"


def _peak_and_speed(row: Row | None) -> list[str]:
    if row is None:
        return ["not measured", "-"]
    if "peak_bytes" not in row:
        return [str(row.get("absent", "failed")), "-"]
    speed = row["pairs_per_second"]
    return [f"{row['peak_bytes'] / 1e9:.2f}", f"{speed:.0f}" if speed >= 10 else f"{speed:.2f}"]


def reliability() -> str:
    """What each campaign counted, and how many of its cases failed."""
    files = sorted((RESULTS / "reliability").glob("*.json"))
    found = [load(f"reliability/{path.name}") for path in files]
    rows = [
        (
            each["campaign"],
            f"{each['count']:,} {each['unit']}",
            f"{each['failed']:,}",
            str(each["first_seed"]),
            origin(each),
        )
        for each in found
    ]
    return table(("campaign", "count", "failures", "first seed", "on"), rows) if rows else UNMEASURED
