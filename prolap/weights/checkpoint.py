"""Checkpoints: a folder of safetensors and JSON for each, and two pointers, `latest` and `best`.

A checkpoint is written under a temporary name, synced, renamed, and only then pointed at; older ones go after that. So a
kill at any moment leaves the previous checkpoint or the new one. Reading runs no code, and every file is checked
against its SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from prolap.config import BaseConfig
from prolap.config.loading import asking_for_plugins, from_dict
from prolap.models import tokenizers
from prolap.models.model import ProLAP, build_model
from prolap.utils.files import sha256, sync, write_text

FOLDER, STATE = "checkpoints", "state.json"
_TEMPORARY = ".writing-"
_TENSORS = ("model.safetensors", "optimizer.safetensors")
Pointer = Literal["best", "latest"]


class CheckpointError(ValueError):
    """A checkpoint that is missing, incomplete or damaged; the message is one sentence."""


@dataclass(frozen=True)
class Checkpoint:
    """What was read from a checkpoint's folder, checksums verified."""

    path: Path
    state: dict[str, Any]
    """Step, best metric, loss scaler, configuration, vocabulary, versions."""
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]

    @property
    def step(self) -> int:
        """Optimiser steps taken."""
        return int(self.state["step"])


def name_of(step: int) -> str:
    """The folder of the checkpoint after `step` optimiser steps."""
    return f"step-{step:08d}"


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as `<parameter name>/<key>`, e.g. `audio.mask/exp_avg`."""
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`, step counts included; a name that the model lacks is a CheckpointError."""
    parameters = dict(model.named_parameters())
    optimizer.state.clear()
    for full, value in tensors.items():
        name, _, key = full.rpartition("/")
        if name not in parameters:
            raise CheckpointError(f"the optimiser state has {name!r}, which the model lacks.")
        device = "cpu" if key == "step" else parameters[name].device
        # a fresh copy: what a file maps into memory is aligned otherwise, and so may round otherwise
        optimizer.state[parameters[name]][key] = value.to(device, copy=True)


def save(
    run: Path, state: dict[str, Any], model: dict[str, Tensor], optimizer: dict[str, Tensor], *, best: bool
) -> Path:
    """Write the checkpoint of `state["step"]`, point `latest` (and `best`) at it and delete what no pointer needs."""
    from safetensors.torch import save_file

    folder = run / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    target, temporary = folder / name_of(state["step"]), folder / (_TEMPORARY + name_of(state["step"]))
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    for name, tensors in zip(_TENSORS, (model, optimizer), strict=True):
        save_file({key: value.detach().contiguous().cpu() for key, value in tensors.items()}, temporary / name)
        sync(temporary / name)
    content = state | {"format": 1, "files": {name: sha256(temporary / name) for name in _TENSORS}}
    write_text(temporary / STATE, json.dumps({"sha256": _digest(content), "content": content}, indent=1))
    if target.exists():  # left by a kill between renaming and pointing
        shutil.rmtree(target)
    os.replace(temporary, target)
    sync(folder)
    write_text(folder / "latest", target.name + "\n")
    if best:
        write_text(folder / "best", target.name + "\n")
    prune(run)
    return target


def prune(run: Path) -> None:
    """Delete what no pointer names: older checkpoints and what a kill left half-written."""
    folder = run / FOLDER
    kept = {pointed(run, "latest"), pointed(run, "best")}
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name.startswith(_TEMPORARY) or (path.name.startswith("step-") and path not in kept):
            shutil.rmtree(path, ignore_errors=True)
        elif path.name.endswith(".tmp"):
            path.unlink(missing_ok=True)


def align(run: Path, checkpoint: Checkpoint) -> None:
    """Make `best` what it was at this checkpoint, from which training goes on, and delete what came after."""
    best = checkpoint.state["best"]
    if best is None:
        (run / FOLDER / "best").unlink(missing_ok=True)
    else:
        write_text(run / FOLDER / "best", name_of(best["step"]) + "\n")
    prune(run)


def pointed(run: Path, pointer: Pointer) -> Path | None:
    """The checkpoint that the pointer names, whether it is there or not; None without a pointer."""
    try:
        name = (run / FOLDER / pointer).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    return run / FOLDER / name


def read(path: Path) -> Checkpoint:
    """A checkpoint's folder; CheckpointError if something is missing or does not match its checksum."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        record = json.loads((path / STATE).read_text(encoding="utf-8"))
        content = record["content"]
        if record["sha256"] != _digest(content):
            raise CheckpointError(f"checkpoint {path} is damaged: state.json does not match its checksum.")
        for name, digest in content["files"].items():
            if sha256(path / name) != digest:
                raise CheckpointError(f"checkpoint {path} is damaged: {name} does not match its checksum.")
        model, optimizer = (load_file(path / name) for name in _TENSORS)
    except FileNotFoundError as error:
        raise CheckpointError(f"checkpoint {path} is incomplete: {Path(error.filename).name} is missing.") from error
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, OSError, SafetensorError) as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error}.") from error
    return Checkpoint(path, content, model, optimizer)


def read_latest(run: Path) -> Checkpoint | None:
    """The newest good checkpoint to go on from; None if there never was one.

    Where `latest` is damaged, a warning says so and the one before it is taken, and pointed at; without a good one a
    CheckpointError is raised.
    """
    latest = pointed(run, "latest")
    if latest is None:
        return None
    others = sorted((path for path in latest.parent.glob("step-*") if path.name < latest.name), reverse=True)
    problems = []
    for path in [latest, *others]:
        try:
            checkpoint = read(path)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        if problems:
            warnings.warn(f"{' '.join(problems)} Going on from {path.name}.", RuntimeWarning, stacklevel=2)
            write_text(latest.parent / "latest", path.name + "\n")
        return checkpoint
    raise CheckpointError(f"no good checkpoint in {latest.parent}: {' '.join(problems)}")


def load_model(folder: str | Path, which: Literal["best", "last"] = "best") -> ProLAP:
    """The trained model of a run's folder, or of one checkpoint's folder, in evaluation mode on the CPU.

    Its `.config` and `.vocabulary` are those it was trained with. No plug-in is imported, since a stranger's file must not
    choose what runs; import it first if the encoders come from it. Raises CheckpointError, and ConfigError without it.
    """
    return model_of(read(resolve(Path(folder), which)))


def resolve(path: Path, which: Literal["best", "last"] = "best") -> Path:
    """The checkpoint's folder itself, or that of a run's best or last one; CheckpointError if there is none."""
    if which not in ("best", "last"):
        raise CheckpointError(f"which: got {which!r}, want 'best' or 'last'.")
    if (path / STATE).exists():
        return path
    if not (path / FOLDER).is_dir():
        raise CheckpointError(f"{path} is neither a run folder with {FOLDER}/ nor a checkpoint.")
    target = pointed(path, "best" if which == "best" else "latest")
    if target is None:
        last = which == "best" and pointed(path, "latest")
        other = '; `--which last` (which="last" in Python) takes the last one' if last else ""
        raise CheckpointError(f"{path} has no {which} checkpoint yet{other}.")
    return target


def model_of(checkpoint: Checkpoint) -> ProLAP:
    """The checkpoint's model in evaluation mode."""
    config = config_of(checkpoint)
    with asking_for_plugins(config.plugins):
        model = build_model(config, tokenizers.from_json(checkpoint.state["vocabulary"]))
    restore_model(model, checkpoint)
    return model.eval()


def config_of(checkpoint: Checkpoint) -> BaseConfig:
    """The configuration the checkpoint was trained with, without the terms of its loss."""
    sections = {field.name for field in fields(BaseConfig)}
    values = {name: value for name, value in checkpoint.state["config"].items() if name in sections}
    return from_dict(values, f"in {checkpoint.path / STATE}", BaseConfig())


def restore_model(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Copy the weights; every name and shape must match."""
    try:
        model.load_state_dict(checkpoint.model, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{checkpoint.path} does not fit the model: {' '.join(str(error).split())}") from error


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
