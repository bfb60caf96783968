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
    """Put `memory` into the parser of the command line."""
    command = commands.add_parser(
        "memory",
        help="the peak memory of a training step, phase by phase",
        description="Run a few training steps on synthetic batches (noise of data.seconds, captions of model.max_tokens) and "
        "print the most memory that tensors took in each phase: on a GPU by torch's allocator, on a CPU by the profiler's "
        "count at it. It needs no data and writes nothing. Where a caption's words come from the data, 5,000 are assumed.",
        epilog="Options as of `prolap train`, e.g. --preset prolap --batch_size 64 --optim.chunk 8 --model.checkpointing.",
        allow_abbrev=False,
    )
    command.add_argument("--config", help="YAML or TOML file with options of `prolap train`")
    command.add_argument("--steps", type=int, default=2, metavar="N", help="optimiser steps (default: 2)")
    command.add_argument("--json", type=Path, metavar="FILE", help="also write the bytes as JSON")
    command.set_defaults(action=run)


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """The exit status, 0."""
    from prolap.training.config import load_config

    config = load_config(file=arguments.config, overrides=rest)
    from prolap.training.synthetic import peak_memory

    found = peak_memory(config, arguments.steps)
    print(report(config, found))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def report(config: Config, found: Mapping[str, int]) -> str:
    """The result of `prolap.training.synthetic.peak_memory` as text."""
    from prolap.training.memory import PHASES

    chunk = f"chunks of {config.optim.chunk}" if config.optim.chunk else "no chunks"
    checkpointing = "with" if config.model.checkpointing else "without"
    rows = config.overfit or config.batch_size
    lines = [
        f"{config.preset}: {rows} pairs, {chunk}, {checkpointing} checkpointing, amp {config.optim.amp}",
        *(_line(name, found[name]) for name in PHASES if name in found),
        _line("all", found["all"], "the highest, weights and all"),
        "",
        _line("weights", found["weights"], "held all the time, as are"),
        _line("gradients", found["gradients"]),
        _line("state", found["state"], "of the optimiser"),
    ]
    return "\n".join(lines)


def _line(name: str, size: int, note: str = "") -> str:
    return f"{name:<10}{size / 1e9:>9.3f} GB{'  ' + note if note else ''}"
