"""The run folder: starting a new one, and resuming one without changing what it computes."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from prolap.config.loading import differences, from_dict, to_yaml
from prolap.config.options import ConfigError
from prolap.data import absolute
from prolap.training.config import Config, load_config
from prolap.utils import lock
from prolap.utils.files import read_text, write_text
from prolap.weights import checkpoint as checkpoints
from prolap.weights.checkpoint import Checkpoint

CONFIG, VERSIONS = "config.yaml", "versions.json"
MAY_CHANGE = (
    "run", "plugins", "device", "threads", "workers", "tensorboard", "log_every", "checkpoint_every",
)  # fmt: skip
"""What a resumed run may set anew: none of it changes what is computed, but device and threads may change bits."""


LENGTH = ("steps", "epochs")
"""What an extension sets anew."""
_NOTE = "# extended "


Ending = Literal["finished", "early", "interrupted"]


@dataclass(frozen=True)
class TrainResult:
    """How a run ended."""

    run: Path
    step: int
    """Optimiser steps taken."""
    steps: int
    """Optimiser steps planned."""
    stopped: Ending
    best_step: int | None
    best_value: float | None
    """The highest value of `best_metric`, and the step it was reached at; None if dev was never evaluated."""
    seconds: float
    signal: int | None = None
    """The signal that interrupted training."""


@dataclass
class StepResult:
    """One optimiser step, as numbers still on the device."""

    loss: float
    grad_norm: float
    stats: dict[str, Tensor] = field(default_factory=dict)
    """Sums over the micro-batches."""


def check_new(config: Config) -> None:
    """ConfigError unless the run folder is new or empty, or a start was killed before it wrote the configuration."""
    run = Path(config.run)
    begun = (lock.NAME, VERSIONS)
    if any(path.name not in begun and not path.name.endswith(".tmp") for path in run.iterdir()):
        raise ConfigError(
            f"run: {run} is not empty; choose another folder, or go on with `prolap train --resume {run}`."
        )


def start(config: Config, versions: dict[str, Any]) -> None:
    """Make the run folder, with the resolved configuration and the versions."""
    run = Path(config.run)
    run.mkdir(parents=True, exist_ok=True)
    write_text(run / VERSIONS, json.dumps(versions, indent=1) + "\n")
    write_text(run / CONFIG, to_yaml(config))


def write_reports(run: Path, data: dict[str, Any]) -> None:
    """`data-<split>.json`: the rows of a manifest that were skipped, and why."""
    for split, source in data.items():
        if (report := getattr(source, "report", None)) is not None:
            report.write(run / f"data-{split}.json")


def resume(config: Config, versions: dict[str, Any], extend: bool = False) -> Checkpoint | None:
    """The checkpoint to resume from, or None to start from the beginning.

    extend: `config` has more steps or epochs than the run.
    Errors: ConfigError naming the options that differ from those the run was started with. Warns if the machine or
    versions differ.
    """
    run = Path(config.run)
    before = load_run_config(run)
    _same(before, config, f"{run / CONFIG}", LENGTH if extend else ())
    if extend and not _longer(before, config):
        raise ConfigError(
            f"extend: got steps {config.steps} and epochs {config.epochs}, want more than the run's "
            f"{before.steps if before.epochs is None else before.epochs}."
        )
    checkpoint = checkpoints.read_latest(run)
    if checkpoint is None:
        checkpoints.prune(run)
        return None
    # a checkpoint from before an extension has the old length
    _same(stored_config(checkpoint), config, f"checkpoint {checkpoint.path.name}", LENGTH)
    _warn_of_bits(checkpoint.state["versions"], versions)
    checkpoints.align(run, checkpoint)
    return checkpoint


def stored_config(checkpoint: Checkpoint) -> Config:
    """The configuration at the time of the checkpoint. Errors: CheckpointError if its state is not that of a training run."""
    needed = ("clips", "stale", "skipped", "scaler", "config", "versions", "vocabulary")
    if missing := [name for name in needed if name not in checkpoint.state]:
        raise checkpoints.CheckpointError(f"checkpoint {checkpoint.path} has no {', '.join(missing)} to resume from.")
    return from_dict(checkpoint.state["config"], f"in {checkpoint.path / checkpoints.STATE}", Config())


def extend(config: Config, step: int, steps: int) -> None:
    """Restate the run's configuration, and note in it when that happened, after the notes that are there."""
    path = Path(config.run) / CONFIG
    notes = [line for line in read_text(path).splitlines() if line.startswith(_NOTE)]
    notes.append(f"{_NOTE}to {steps} steps after step {step}, {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC")
    write_text(path, "\n".join(notes) + "\n" + to_yaml(config))


def _longer(before: Config, now: Config) -> bool:
    """Whether the length grew; steps against epochs is left to the trainer, who knows the size of the data."""
    if before.epochs is None and now.epochs is None:
        return now.steps > before.steps
    return before.epochs is None or now.epochs is None or now.epochs > before.epochs


def _warn_of_bits(before: dict[str, Any], versions: dict[str, Any]) -> None:
    bits = {key: now for key, now in versions.items() if key != "commit"}  # most commits leave the bits alone
    changed = [f"{key} {before.get(key)} -> {now}" for key, now in bits.items() if before.get(key) != now]
    if changed:
        message = f"the resumed run may differ in its last bits: {', '.join(changed)}."
        warnings.warn(message, RuntimeWarning, stacklevel=4)


def load_run_config(run: Path) -> Config:
    """The configuration that a run was started with."""
    if not (run / CONFIG).is_file():
        raise ConfigError(f"run: {run} has no {CONFIG}, so it is not a run that can be resumed.")
    return absolute(load_config(file=run / CONFIG))


def _same(old: Config, new: Config, source: str, also: Sequence[str] = ()) -> None:
    changes = differences(old, new, ignore=(*MAY_CHANGE, *also))
    if changes:
        changed = ", ".join(f"{key} (was {was}, now {now})" for key, was, now in changes)
        longer = "; `--extend` makes a run longer" if {key for key, *_ in changes} & {*LENGTH} else ""
        raise ConfigError(f"a resumed run keeps its configuration, but {changed} differ from {source}{longer}.")
