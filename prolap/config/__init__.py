"""What a run is made of, as frozen dataclasses: every option the trainer knows, with its unit and default.

Nothing here does anything; each section is read by the module of the same name, and `prolap.config.loading` fills it in. The
docstring of a field is what `prolap train --help` says of it. The terms of the loss have their options in
`prolap.training.terms`.
"""

from __future__ import annotations

from prolap.config.base import BaseConfig
from prolap.config.data import AugmentConfig, DataConfig, MaskConfig, MixConfig
from prolap.config.model import ModelConfig
from prolap.config.optim import OptimConfig, SafetyConfig

__all__ = [
    "AugmentConfig",
    "BaseConfig",
    "DataConfig",
    "MaskConfig",
    "MixConfig",
    "ModelConfig",
    "OptimConfig",
    "SafetyConfig",
]
