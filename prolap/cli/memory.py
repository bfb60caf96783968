"""`prolap memory`: the peak memory of a training step, phase by phase."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prolap.training.config import Config


def add(commands: Any) -> None:
    """Add `memory` to the parser of the command line."""
    command = commands.add_parser(
        "memory",
        help="the peak memory of a training step, phase by phase",
        description="Run a few training steps on synthetic batches (noise of data.seconds, captions of model.max_tokens) and "
        "print the peak memory of tensors in each phase, measured by torch's allocator on a GPU and by the profiler on a "
        "CPU. It needs no data and writes no run. A vocabulary that is built from the data is assumed to have 5,000 words.",
        epilog="Takes the options of `prolap train`, e.g. --preset prolap --batch_size 64 --optim.chunk 8 "
        "--model.checkpointing.",
        allow_abbrev=False,
    )
    command.add_argument("--config", metavar="FILE", help="YAML or TOML file with options of `prolap train`")
    command.add_argument("--steps", type=int, default=2, metavar="N", help="optimiser steps (default: 2)")
    command.add_argument("--json", type=Path, metavar="FILE", help="also write the bytes as JSON")
    command.set_defaults(command=run)


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """The exit status, 0."""
    from prolap.training.config import load_config

    config = load_config(file=arguments.config, overrides=rest)
    from prolap.training.synthetic import peak_memory

    peaks = peak_memory(config, arguments.steps)
    print(report(config, peaks))
    if arguments.json:
        arguments.json.write_text(json.dumps(peaks, indent=1) + "\n")
    return 0


def report(config: Config, peaks: Mapping[str, int]) -> str:
    """Bytes by phase (`prolap.training.synthetic.peak_memory`) as text."""
    from prolap.training.memory import PHASES

    chunk = f"chunks of {config.optim.chunk}" if config.optim.chunk else "no chunks"
    checkpointing = "with" if config.model.checkpointing else "without"
    rows = config.overfit or config.batch_size
    lines = [
        f"{config.preset}: {rows} pairs, {chunk}, {checkpointing} checkpointing, amp {config.optim.amp}",
        *(_line(name, peaks[name]) for name in PHASES if name in peaks),
        _line("all", peaks["all"], "the highest, weights included"),
        "",
        _line("weights", peaks["weights"], "held all the time, as are"),
        _line("gradients", peaks["gradients"], "and"),
        _line("state", peaks["state"], "of the optimiser"),
    ]
    return "\n".join(lines)


def _line(name: str, size: int, note: str = "") -> str:
    return f"{name:<10}{size / 1e9:>9.3f} GB{'  ' + note if note else ''}"
