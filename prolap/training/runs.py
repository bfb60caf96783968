"""The run folder: starting a new one, and resuming one without changing what it computes."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from prolap.config.loading import differences, from_dict, to_yaml
from prolap.config.options import ConfigError
from prolap.training.config import Config, load_config
from prolap.utils.files import write_text
from prolap.weights import checkpoint as checkpoints
from prolap.weights.checkpoint import Checkpoint

CONFIG, VERSIONS = "config.yaml", "versions.json"
MAY_CHANGE = (
    "run", "preset", "plugins", "device", "threads", "workers", "tensorboard", "log_every", "checkpoint_every",
)  # fmt: skip
"""What a resumed run may set anew: none of it changes what is computed, but device and threads may change bits."""


def check_new(config: Config) -> None:
    """ConfigError unless the run folder is new or empty."""
    run = Path(config.run)
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
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


def resume(config: Config, versions: dict[str, Any]) -> Checkpoint | None:
    """The checkpoint to resume from, or None to start from the beginning; later files of the folder are removed.

    Errors: ConfigError naming the options that differ from those the run was started with. Warns if the machine or
    versions differ.
    """
    run = Path(config.run)
    _same(load_run_config(run), config, f"{run / CONFIG}")
    checkpoint = checkpoints.read_latest(run)
    if checkpoint is None:
        checkpoints.prune(run)
        return None
    stored = from_dict(checkpoint.state["config"], f"in {checkpoint.path / checkpoints.STATE}", Config())
    _same(stored, config, f"checkpoint {checkpoint.path.name}")
    before = checkpoint.state["versions"]
    bits = {key: now for key, now in versions.items() if key != "commit"}  # most commits leave the bits alone
    changed = [f"{key} {before.get(key)} -> {now}" for key, now in bits.items() if before.get(key) != now]
    if changed:
        message = f"the resumed run may differ in its last bits: {', '.join(changed)}."
        warnings.warn(message, RuntimeWarning, stacklevel=3)
    checkpoints.align(run, checkpoint)
    return checkpoint


def load_run_config(run: Path) -> Config:
    """The configuration that a run was started with."""
    if not (run / CONFIG).is_file():
        raise ConfigError(f"run: {run} has no {CONFIG}, so it is not a run that can be resumed.")
    return load_config(file=run / CONFIG)


def _same(old: Config, new: Config, source: str) -> None:
    changed = [f"{key} (was {was}, now {now})" for key, was, now in differences(old, new, ignore=MAY_CHANGE)]
    if changed:
        raise ConfigError(f"a resumed run keeps its configuration, but {', '.join(changed)} differ from {source}.")
