"""Strict importers of public checkpoints. A new format is a file that registers it, here (and imported below).

Every tensor of the file is mapped, or dropped for a named reason; everything of the model is filled, or declared new.
What is left over on either side is an error.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prolap.config import BaseConfig
from prolap.config.options import ConfigError, leaves
from prolap.data.features import make_features
from prolap.models.model import ProLAP
from prolap.models.tokenizers import Tokenizer
from prolap.utils.files import sha256
from prolap.weights.checkpoint import FOLDER, STATE, CheckpointError
from prolap.weights.importers import hf, laion, msclap  # noqa: F401
from prolap.weights.importers.format import FORMATS, Format
from prolap.weights.importers.reading import read, read_config, weights_of
from prolap.weights.importers.translation import Report, fill, start_scale, translate

PROLAP = "prolap"
BANK_TOLERANCE = 1e-3
"""Of the largest weight: how far a file's mel bank may be from ours; torchaudio's and transformers' differ by 1.3e-6."""


@dataclass(frozen=True)
class Public:
    """A public checkpoint, read and recognised."""

    source: str
    file: Path
    format: Format
    tensors: dict[str, Tensor]
    config: dict[str, Any] | None

    @property
    def vocabulary(self) -> Tokenizer | None:
        """None: the tokenizer is that of the configuration."""
        return None

    def check(self, config: BaseConfig) -> None:
        """ConfigError that lists every option that differs from what the weights were trained with."""
        have, needs = leaves(config), self.format.needs(self.tensors, self.config, self.source)
        wrong = {key: value for key, value in needs.items() if have[key] != value}
        if wrong:
            options = ", ".join(f"{key}={value} (now {have[key]})" for key, value in wrong.items())
            raise ConfigError(
                f"init: {self.source} ({self.format.name}) needs {options}; `--preset {self.format.preset}` has what the "
                "usual file of this format needs."
            )

    def load(self, model: ProLAP, trains_uncertainty: bool = True) -> Report:
        """Copy the weights into `model`; log-variance heads are new in any case.

        Errors: CheckpointError that lists everything that does not fit.
        """
        done = translate(self.tensors, self.format.rules())
        notes = [*self.format.notes(self.config), *self._bank_note(model.config)]
        if self.format.temperature in done.mapped:
            scale = self.tensors[self.format.temperature]
            if scale.numel() != 1 or not bool(scale.isfinite().all()):
                raise CheckpointError(f"init: {self.source} has no number as {self.format.temperature}.")
            log_scale, note = start_scale(float(scale), model.config.model)
            done.tensors["log_scale"] = torch.tensor(log_scale)
            notes += note
        broken = [name for name, tensor in done.tensors.items() if not bool(tensor.isfinite().all())]
        if broken:
            raise CheckpointError(f"init: {self.source} holds values that are not finite, for {', '.join(broken)}.")
        new = fill(model, done, self.source)
        return Report(self.source, self.format.name, sha256(self.file), done.mapped, done.dropped, new, notes)

    def _bank_note(self, config: BaseConfig) -> list[str]:
        bank = self.tensors.get(self.format.bank or "")
        ours = getattr(make_features(config.data), "bank", None)
        if bank is None or ours is None:
            return []
        if bank.shape != ours.shape:
            raise CheckpointError(
                f"init: {self.source} has a mel bank of shape {tuple(bank.shape)}, want {tuple(ours.shape)}."
            )
        error = float((bank.float() - ours).abs().max() / ours.abs().max())
        note = f"its mel bank is that of data.features={config.data.features} within {error:.0e} of the largest weight"
        if not error <= BANK_TOLERANCE:
            note = note.replace(" is that", " is not that").replace("within", "by")
            warnings.warn(f"init: {self.source}: {note}.", RuntimeWarning, stacklevel=4)
        return [note]


def open_public(path: Path, name: str = "auto") -> Public:
    """Read a public checkpoint, a file or a folder of Hugging Face; `name` is that of a format, or auto to look.

    Errors: ConfigError for an unknown format, CheckpointError for a file that is damaged, unsafe, or of another format.
    """
    if name != "auto" and name not in FORMATS:
        raise ConfigError(f"init_format: got {name!r}, want auto, {PROLAP}, {', '.join(sorted(FORMATS))}.")
    file = weights_of(path)
    content: Mapping[str, Any] = read(file)
    candidates = list(FORMATS.values()) if name == "auto" else [FORMATS[name]]
    for candidate in candidates:
        tensors = candidate.unwrap(content, file)
        if tensors is not None:
            return Public(str(path), file, candidate, tensors, read_config(path))
    some = ", ".join(sorted(map(str, content))[:3])
    names = " or ".join(sorted(each.name for each in candidates))
    raise CheckpointError(f"init: {path} (with {some}, ...) is not in the format {names}.")


def is_run(path: Path) -> bool:
    """Whether this is the folder of a run of ours, or of one of its checkpoints."""
    return (path / STATE).is_file() or (path / FOLDER).is_dir()
