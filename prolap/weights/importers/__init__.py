"""Strict importers of public checkpoints. A new layout is one file here and one line in IMPORTERS.

Every tensor of the file is mapped, or dropped for a named reason; everything of the model is filled, or declared new.
What is left over on either side is an error.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from prolap.config import BaseConfig
from prolap.config.options import ConfigError, leaves
from prolap.utils.files import sha256
from prolap.weights.checkpoint import FOLDER, CheckpointError
from prolap.weights.importers.hf import HuggingFaceClap
from prolap.weights.importers.laion import LaionClap
from prolap.weights.importers.layout import Layout
from prolap.weights.importers.msclap import MSClap2023
from prolap.weights.importers.reading import read, read_config, weights_of
from prolap.weights.importers.report import Report
from prolap.weights.importers.rules import fit, translate

if TYPE_CHECKING:
    from prolap.models.model import ProLAP

IMPORTERS: dict[str, Layout] = {layout.name: layout for layout in (MSClap2023(), LaionClap(), HuggingFaceClap())}
"""Name of a layout -> how it is read."""
PROLAP = "prolap"
BANK_TOLERANCE = 1e-3
"""Of the largest weight: how far a file's mel bank may be from ours; torchaudio's and transformers' differ by 1.3e-6."""


@dataclass(frozen=True)
class Public:
    """A public checkpoint, read and recognised."""

    source: str
    file: Path
    layout: Layout
    tensors: dict[str, Tensor]
    config: dict[str, Any] | None

    def check(self, config: BaseConfig) -> None:
        """ConfigError that lists every option that differs from what the weights were trained with."""
        have = leaves(config)
        wrong = {
            key: value
            for key, value in self.layout.needs(self.tensors, self.config, self.source).items()
            if have[key] != value
        }
        if wrong:
            options = ", ".join(f"{key}={value} (now {have[key]})" for key, value in wrong.items())
            raise ConfigError(
                f"init: {self.source} ({self.layout.name}) needs {options}; `--preset {self.layout.preset}` has what the "
                "usual file of this layout needs."
            )

    def load(self, model: ProLAP) -> Report:
        """Copy the weights into `model`. Errors: CheckpointError that lists everything that does not fit."""
        done = translate(self.tensors, self.layout.rules())
        notes = [*self.layout.notes(self.config), *self._bank_note(model.config)]
        if self.layout.temperature in done.mapped:
            from prolap.weights.importers.scale import start_scale  # the model is not needed to look at a file

            scale = self.tensors[self.layout.temperature]
            if scale.numel() != 1 or not bool(scale.isfinite().all()):
                raise CheckpointError(f"init: {self.source} has no number as {self.layout.temperature}.")
            log_scale, note = start_scale(float(scale), model.config.model)
            done.tensors["log_scale"] = torch.tensor(log_scale)
            notes += note
        new = fit(done, model.state_dict(), self.source)
        broken = [name for name, tensor in done.tensors.items() if not bool(tensor.isfinite().all())]
        if broken:
            raise CheckpointError(f"init: {self.source} holds values that are not finite, for {', '.join(broken)}.")
        state = model.state_dict()
        with torch.no_grad():
            for name, tensor in done.tensors.items():
                state[name].copy_(tensor)
        return Report(self.source, self.layout.name, sha256(self.file), done.mapped, done.dropped, new, notes)

    def _bank_note(self, config: BaseConfig) -> list[str]:
        from prolap.data.features import make_features

        bank = self.tensors.get(self.layout.bank or "")
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


def open_public(path: Path, layout: str = "auto") -> Public:
    """Read a public checkpoint, a file or a folder of Hugging Face.

    Errors: ConfigError for an unknown `layout`, CheckpointError for a file that is damaged, unsafe, or of another layout.
    """
    if layout != "auto" and layout not in IMPORTERS:
        raise ConfigError(f"init_format: got {layout!r}, want auto, {PROLAP}, {', '.join(IMPORTERS)}.")
    file = weights_of(path)
    content: Mapping[str, Any] = read(file)
    for name in IMPORTERS if layout == "auto" else [layout]:
        tensors = IMPORTERS[name].unwrap(content, file)
        if tensors is not None:
            return Public(str(path), file, IMPORTERS[name], tensors, read_config(path))
    some = ", ".join(sorted(map(str, content))[:3])
    wanted = f"one of {', '.join(IMPORTERS)}" if layout == "auto" else layout
    raise CheckpointError(f"init: {path} (with {some}, ...) is not in the layout {wanted}.")


def detect(path: Path) -> str:
    """ "prolap" for a run or checkpoint folder, else the name in IMPORTERS. Errors: CheckpointError."""
    if (path / "state.json").is_file() or (path / FOLDER).is_dir():
        return PROLAP
    return open_public(path).layout.name
