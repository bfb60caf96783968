"""Tables about the trainer, from the committed result files and from nothing else."""

from __future__ import annotations

from typing import Any

from .tables import UNMEASURED, load, origin, table


def miniature() -> str:
    """What the runs on recorded sound in the public layouts came to."""
    found = load("cpu/miniature.json")
    if found is None:
        return UNMEASURED
    rows = []
    for name, run in found["runs"].items():
        retrieval = run["retrieval"]
        cells = [f"{100 * retrieval[way]['r1']:.1f} / {100 * retrieval[way]['map10']:.1f}" for way in ("t2a", "a2t")]
        chance = f"{100 * retrieval['chance_r1']:.1f}"
        command = f"`--preset {run['preset']} {' '.join(run['options'])}`"
        rows.append([f"{name}: {command}", str(retrieval["n"]), *cells, chance])
    head = ["run", "N", "T→A R@1 / mAP@10, %", "A→T R@1 / mAP@10, %", "chance R@1, %"]
    origins = dict.fromkeys(origin(run["stamp"]) for run in found["runs"].values())
    return f"{'; '.join(origins)}; random initial weights:\n\n{table(head, rows)}"


def batch_memory() -> str:
    """Peak and speed of training steps by batch, chunk and checkpointing: a column for each kind of device."""
    sides = {name: load(f"{name}/batch_memory.json") for name in ("cpu", "cuda")}
    if not any(sides.values()):
        return UNMEASURED
    cells: dict[tuple[Any, ...], dict[str, Any]] = {}
    for name, found in sides.items():
        for row in found["rows"] if found else ():
            key = tuple(row[field] for field in ("size", "batch", "chunk", "checkpointing"))
            cells.setdefault(key, {})[name] = row
    order = {size: number for number, size in enumerate(dict.fromkeys(key[0] for key in cells))}
    rows = []
    for key in sorted(cells, key=lambda key: (order[key[0]], *key[1:])):
        size, batch, chunk, checkpointing = key
        how = [size, f"{batch:,}", str(chunk or "-"), "yes" if checkpointing else "-"]
        rows.append([*how, *_peak_and_speed(cells[key].get("cpu")), *_peak_and_speed(cells[key].get("cuda"))])
    head = ["size", "batch", "chunk", "checkpointing", "CPU, GB", "pairs/s", "GPU, GB", "pairs/s"]
    origins = [f"{name.upper()}: {origin(found) if found else 'not measured'}" for name, found in sides.items()]
    return (
        f"{'; '.join(origins).replace('CUDA', 'GPU')}; float32, weights and optimiser included:\n\n{table(head, rows)}"
    )


def _peak_and_speed(row: dict[str, Any] | None) -> list[str]:
    if row is None:
        return ["not measured", "-"]
    if "peak_bytes" not in row:
        return [str(row.get("absent", "failed")), "-"]
    speed = row["pairs_per_second"]
    return [f"{row['peak_bytes'] / 1e9:.2f}", f"{speed:.0f}" if speed >= 10 else f"{speed:.2f}"]
