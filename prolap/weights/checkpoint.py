"""Checkpoints: a folder of safetensors and JSON for each, and two pointers, `latest` and `best`.

A checkpoint is written under a temporary name, synced, renamed, and only then pointed at; older ones go after that. So a
kill at any moment leaves the previous checkpoint or the new one. Reading runs no code, and every file is checked
against its SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import warnings
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from prolap.config import BaseConfig
from prolap.config.loading import asking_for_plugins, from_dict
from prolap.models import tokenizers
from prolap.models.model import ProLAP, build_model
from prolap.models.tokenizers import Tokenizer
from prolap.utils.files import (
    DamagedFile,
    WriteError,
    read_json,
    read_text,
    sha256,
    sync,
    write_tensors,
    write_text,
    writing,
)

FOLDER, STATE = "checkpoints", "state.json"
_TEMPORARY = ".writing-"
_TENSORS = ("model.safetensors", "optimizer.safetensors")
_NAME = re.compile(r"step-(\d{8,})")
_TYPES: dict[str, type | tuple[type, ...]] = {
    "step": int, "clips": int, "stale": int, "skipped": int, "best": (dict, type(None)), "scaler": dict, "config": dict,
    "trains_uncertainty": bool, "versions": dict, "vocabulary": str, "files": dict,
}  # fmt: skip
"""What the state may hold, and of which type; what is missing is asked for where it is needed."""
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


def save(
    run: Path, state: dict[str, Any], model: dict[str, Tensor], optimizer: dict[str, Tensor], *, best: bool
) -> Path:
    """Write the checkpoint of `state["step"]`, point `latest` (and `best`) at it and delete what it replaces.

    Errors: e.g. of a full disk; then nothing half-written is left, and the checkpoint before is the latest.
    """
    folder = run / FOLDER
    target, temporary = folder / name_of(state["step"]), folder / (_TEMPORARY + name_of(state["step"]))
    try:
        with writing(target):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            for name, tensors in zip(_TENSORS, (model, optimizer), strict=True):
                write_tensors(temporary / name, tensors)
            content = state | {"format": 1, "files": {name: sha256(temporary / name) for name in _TENSORS}}
            write_text(temporary / STATE, json.dumps({"sha256": _digest(content), "content": content}, indent=1))
            if target.exists():  # left by a kill between renaming and pointing, or damaged
                shutil.rmtree(target)
            os.replace(temporary, target)
            sync(folder)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, WriteError):  # the temporary name helps nobody
            error.filename = str(error.filename).replace(temporary.name, target.name)
        raise
    write_text(folder / "latest", target.name + "\n")
    if best:
        write_text(folder / "best", target.name + "\n")
    prune(run)
    return target


def prune(run: Path) -> None:
    """Delete checkpoints that the latest one replaced, except the best, and what a kill left half-written."""
    folder = run / FOLDER
    latest, best = pointed(run, "latest"), pointed(run, "best")
    steps = steps_of(run)
    replaced = steps[steps.index(latest) + 1 :] if latest in steps else []
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name.startswith(_TEMPORARY) or (path in replaced and path != best):
            shutil.rmtree(path, ignore_errors=True)
        elif path.name.endswith(".tmp"):
            path.unlink(missing_ok=True)


def align(run: Path, checkpoint: Checkpoint) -> None:
    """Make `best` what it was at this checkpoint, from which training goes on, and delete what that replaced."""
    best, pointer = checkpoint.state["best"], run / FOLDER / "best"
    target = run / FOLDER / name_of(best["step"]) if best else None
    if target and target.is_dir():
        write_text(pointer, target.name + "\n")
    else:
        pointer.unlink(missing_ok=True)
    if target and not target.is_dir():
        message = f"the best checkpoint so far, {target}, is missing; the next one that is better takes its place."
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    prune(run)


def pointed(run: Path, pointer: Pointer) -> Path | None:
    """The checkpoint that the pointer names, whether it is there or not; None without a pointer or with a damaged one."""
    try:
        name = read_text(run / FOLDER / pointer).strip()
    except (OSError, DamagedFile):
        return None
    return run / FOLDER / name if _NAME.fullmatch(name) else None


def steps_of(run: Path) -> list[Path]:
    """The folders of all checkpoints, the newest first."""
    names = [path for path in (run / FOLDER).glob("step-*") if _NAME.fullmatch(path.name)]
    return sorted(names, key=lambda path: int(path.name.removeprefix("step-")), reverse=True)


def read(path: Path) -> Checkpoint:
    """A checkpoint's folder; CheckpointError if something is missing or does not match its checksum."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if missing := [name for name in (*_TENSORS, STATE) if not (path / name).is_file()]:
        raise CheckpointError(f"checkpoint {path} is incomplete: {', '.join(missing)} is missing.")
    try:
        content = _state(path)
        for name in _TENSORS:
            if sha256(path / name) != content["files"].get(name):
                raise CheckpointError(f"checkpoint {path} is damaged: {name} does not match its checksum.")
        model, optimizer = (load_file(path / name) for name in _TENSORS)
    except (DamagedFile, OSError, SafetensorError) as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {str(error).removesuffix('.')}.") from error
    return Checkpoint(path, content, model, optimizer)


def _state(path: Path) -> dict[str, Any]:
    """The content of state.json; a checksum that holds says nothing of who wrote it, so types are checked as well."""
    record = read_json(path / STATE)
    content = record.get("content")
    if not isinstance(content, dict) or record.get("sha256") != _digest(content):
        raise CheckpointError(f"checkpoint {path} is damaged: {STATE} does not match its checksum.")
    wrong = [name for name, kind in _TYPES.items() if name in content and not isinstance(content[name], kind)]
    wrong += [name for name in ("step", "best", "files") if name not in content]
    best = content.get("best")
    if not wrong and best and not (isinstance(best.get("step"), int) and isinstance(best.get("value"), int | float)):
        wrong = ["best"]
    if wrong:
        raise CheckpointError(f"checkpoint {path} cannot be read: {STATE} has a wrong or missing {', '.join(wrong)}.")
    return content


def read_latest(run: Path) -> Checkpoint | None:
    """The newest good checkpoint to go on from; None if there never was one.

    Where `latest` or what it names is missing or damaged, a warning says so, and the newest other one is taken and
    pointed at; without a good one a CheckpointError is raised. Nothing is deleted.
    """
    latest, others = pointed(run, "latest"), steps_of(run)
    problems = [] if latest else [f"{run / FOLDER / 'latest'} is missing or damaged."]
    candidates = [*([latest] if latest else []), *(path for path in others if path != latest)]
    if not candidates:
        return None
    for path in candidates:
        try:
            checkpoint = read(path)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        if problems:
            warnings.warn(f"{' '.join(problems)} Going on from {path.name}.", RuntimeWarning, stacklevel=2)
            write_text(run / FOLDER / "latest", path.name + "\n")
        return checkpoint
    raise CheckpointError(f"no good checkpoint in {run / FOLDER}: {' '.join(problems)}")


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
    target = _target(path, which)
    if target is None:
        last = which == "best" and steps_of(path)
        other = '; `--which last` (which="last" in Python) takes the last one' if last else ""
        raise CheckpointError(f"{path} has no {which} checkpoint yet{other}.")
    return target


def _target(run: Path, which: Literal["best", "last"]) -> Path | None:
    """What the pointer names; if it is lost, or the state of the latest names another best, that, with a warning."""
    latest, pointer = pointed(run, "latest"), pointed(run, "best" if which == "best" else "latest")
    if which == "last" and pointer:
        return pointer
    for path in [latest] if latest and latest.is_dir() else steps_of(run):
        try:
            best = (_state(path) if pointer else read(path).state)["best"]
        except (CheckpointError, DamagedFile, OSError):
            continue
        target = path if which == "last" else run / FOLDER / name_of(best["step"]) if best else None
        if target and target.is_dir():
            if target != pointer:
                lost = f"points to {pointer.name} as" if pointer else "has lost its pointer to"
                message = (
                    f"{run / FOLDER} {lost} the {which} checkpoint; {path.name} says it is {target.name}, taking that."
                )
                warnings.warn(message, RuntimeWarning, stacklevel=3)
            return target
        break
    return pointer


def vocabulary_of(checkpoint: Checkpoint) -> Tokenizer:
    """The checkpoint's tokenizer; CheckpointError if it is none."""
    try:
        return tokenizers.from_json(checkpoint.state["vocabulary"])
    except ImportError:
        raise
    except Exception as error:  # whatever the tokenizers' own code makes of forged content
        reason = " ".join(str(error).split())[:200].removesuffix(".")
        raise CheckpointError(f"{checkpoint.path / STATE} holds no vocabulary that can be read: {reason}.") from error


def model_of(checkpoint: Checkpoint) -> ProLAP:
    """The checkpoint's model in evaluation mode."""
    config = config_of(checkpoint)
    with asking_for_plugins(config.plugins):
        model = build_model(config, vocabulary_of(checkpoint))
    restore_model(model, checkpoint)
    return model.eval()


def config_of(checkpoint: Checkpoint) -> BaseConfig:
    """The configuration the checkpoint was trained with, without the terms of its loss."""
    sections = {field.name for field in fields(BaseConfig)}
    stored = checkpoint.state.get("config", {})
    values = {name: value for name, value in stored.items() if name in sections}
    return from_dict(values, f"in {checkpoint.path / STATE}", BaseConfig())


def restore_model(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Copy the weights; every name and shape must match."""
    try:
        model.load_state_dict(checkpoint.model, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{checkpoint.path} does not fit the model: {' '.join(str(error).split())}") from error


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
