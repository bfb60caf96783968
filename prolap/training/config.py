"""The configuration of a run with the terms of its loss, and how it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prolap.config import BaseConfig
from prolap.config.loading import load
from prolap.training.terms import loss_config, mixes, trains_uncertainty


@dataclass(frozen=True)
class Config(BaseConfig):
    """One training run."""

    loss: Any = field(default_factory=loss_config)

    @property
    def mixes(self) -> bool:
        """Whether its batches hold mixtures. Errors: ConfigError if a term that counts cannot be computed with them."""
        return mixes(self.mix.share, self.loss)

    @property
    def trains_uncertainty(self) -> bool:
        """Whether a term that counts looks at log-variances; a deterministic baseline has none."""
        return trains_uncertainty(self.loss, self.model.score)


def load_config(
    preset: str | None = None, file: str | Path | None = None, overrides: Sequence[str] | Mapping[str, Any] = ()
) -> Config:
    """The settings of a preset, over them those of a YAML or TOML file, over them the overrides, as `config.loading.load`."""
    return load(Config, preset, file, overrides)
