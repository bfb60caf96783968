"""Batch, chunk and checkpointing against peak memory and speed of whole training steps.

    python -m benchmarks.batch_memory --json benchmarks/results/cpu/batch_memory.json                  # under 8 minutes
    python -m benchmarks.batch_memory --device cuda --json benchmarks/results/cuda/batch_memory.json

Two sizes, the quickstart's and the published one (HTS-AT tiny, GPT-2, dim 1024), with random weights, on synthetic batches of the
longest shapes (prolap.training.synthetic): a sound as long as a training clip, captions of all tokens. Every row comes
from a process of its own, which first takes a step of a small model with the same losses. Memory is the peak of torch's
allocator on a GPU; on a CPU it is that of the resident set above what the small model left behind (libraries, compiled
losses). Weights, gradients and the optimiser's state are in it. What has no room or no time is left out and says so.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from prolap.training.config import Config, load_config
from prolap.training.synthetic import synthetic_trainer
from prolap.training.train import Trainer

from .measure import child, free_bytes, peak_used, reset_peak, used_bytes
from .records import UNMEASURED, Row, argument_parser, load, origin, stamp, table, write_json

PRESETS = {"quickstart": "quickstart", "published": "prolap", "micro": "prolap+micro"}
"""Size -> preset; micro is for trying this out."""


class Case(NamedTuple):
    """One row; chunk 0 encodes all at once."""

    size: str
    batch: int
    chunk: int = 0
    checkpointing: bool = False


CPU = tuple(Case(*row) for row in (
    ("quickstart", 256), ("quickstart", 1024), ("quickstart", 4096), ("quickstart", 1024, 128), ("quickstart", 4096, 128),
    ("published", 2), ("published", 4), ("published", 8), ("published", 8, 0, True), ("published", 8, 2), ("published", 16, 2),
))  # fmt: skip
CUDA = CPU + tuple(Case("published", *row) for row in (
    (64,), (64, 0, True), (64, 32), (256, 32), (2048, 32), (2048, 64, True),
))  # fmt: skip
MICRO = (Case("micro", 2), Case("micro", 4), Case("micro", 4, 0, True), Case("micro", 4, 2))


def measure(case: Case, device: str, steps: int) -> Row:
    """Peak bytes and pairs per second of some steps, in this process."""
    options = {"batch_size": case.batch, "optim.chunk": case.chunk, "model.checkpointing": case.checkpointing}
    config = load_config(PRESETS[case.size], overrides={**options, "device": device})
    _warm_up(config, case.size)
    before = used_bytes(device) if device == "cpu" else 0
    training, seconds = synthetic_trainer(config), 0.0
    held = _make_state(training)
    reset_peak(device)
    stream = training.loader.batches(0)
    for _ in range(steps):
        batch = next(stream)  # not on the clock: training has workers for it
        started = time.perf_counter()
        training.update(iter([batch]))
        seconds += time.perf_counter() - started  # it has read the loss from the device
    return {
        "peak_bytes": peak_used(device) - before,
        "held_bytes": held,
        "pairs_per_second": steps * case.batch / seconds,
        "seconds_per_step": seconds / steps,
        "steps": steps,
    }


def _warm_up(config: Config, size: str) -> None:
    """A step of a small model with the losses of `config`, batch and dimensions included: they are compiled for these."""
    small = load_config(PRESETS["quickstart" if size == "quickstart" else "micro"])
    rows = min(config.batch_size, 64) if config.device == "cuda" else config.batch_size  # nothing is compiled there
    small = replace(small, loss=config.loss, mask=config.mask, batch_size=rows, device=config.device)
    training = synthetic_trainer(replace(small, model=replace(small.model, dim=config.model.dim)))
    training.update(training.loader.batches(0))


def _make_state(training: Trainer) -> int:
    """The optimiser's state, as after a first step; bytes of it, the weights and their gradients."""
    parameters = [p for group in training.optimizer.param_groups for p in group["params"]]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    training.optimizer.step()
    state = [tensor for entry in training.optimizer.state.values() for tensor in entry.values()]
    return sum(tensor.nbytes for tensor in [*training.model.parameters(), *parameters, *state])


def expected(case: Case, rows: Sequence[Row]) -> float:
    """About the bytes that a row takes, from the largest unchunked one of its size so far; 0 where there is none."""
    whole = [row for row in rows if row["size"] == case.size and not row["chunk"] and "peak_bytes" in row]
    if case.chunk or not whole:
        return 0
    most = max(whole, key=lambda row: int(row["batch"]))
    return float(most["peak_bytes"] * max(1, case.batch / most["batch"]))


def compare(cases: Sequence[Case], device: str, steps: int, minutes: float, path: Path | None) -> list[Row]:
    """All rows, each from a process of its own, written after each one."""
    content: Row = stamp(device) | {"rows": []}
    rows: list[Row] = content["rows"]
    end = time.monotonic() + 60 * minutes
    for case in cases:
        left = end - time.monotonic()
        if left < 10:
            row: Row = {"absent": "no time left"}
        elif device == "cpu" and expected(case, rows) > free_bytes():
            row = {"absent": "no room"}
        else:
            words = ("--one", json.dumps(case), "--device", device, "--steps", steps)
            row = child("benchmarks.batch_memory", *words, timeout=left)
        rows.append(case._asdict() | row)
        print_row(rows[-1])
        if path:
            write_json(path, content)
    return rows


def print_row(row: Row) -> None:
    mode = "checkpointing" if row["checkpointing"] else ""
    case = f"{row['size']:<12}batch {row['batch']:<6}chunk {row['chunk'] or '-':<6}{mode:<15}"
    figures = row.get("failed") or row.get("absent")
    print(case, figures or f"{row['peak_bytes'] / 1e9:.2f} GB, {row['pairs_per_second']:.2f} pairs/s", flush=True)


def report() -> str:
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


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 1 if a row failed."""
    parser = argument_parser("batch_memory", __doc__)
    parser.add_argument("--size", nargs="+", choices=PRESETS, default=["quickstart", "published"])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--steps", type=int, default=1, help="measured steps of each row (1), after one to warm up")
    parser.add_argument("--minutes", type=float, default=8.0, help="what is not done by then is left out (8)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the rows, with device, versions and commit")
    parser.add_argument("--one", metavar="CASE", help="this alone, in this process")
    args = parser.parse_args(argv)
    if args.one:
        print(json.dumps(measure(Case(*json.loads(args.one)), args.device, args.steps)))
        return 0
    cases = [case for case in (CUDA if args.device == "cuda" else CPU) + MICRO if case.size in args.size]
    rows = compare(cases, args.device, args.steps, args.minutes, args.json)
    return int(any("failed" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())
