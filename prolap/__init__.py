"""Training and evaluation of probabilistic language-audio models.

Importing this package is light: torch, the data and the models load when one of the names is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from prolap.utils import __version__

if TYPE_CHECKING:
    from prolap.models.model import ProLAP
    from prolap.training.config import Config, load_config
    from prolap.training.train import TrainResult
    from prolap.weights.checkpoint import load_model

__all__ = ["Config", "ProLAP", "TrainResult", "__version__", "load_config", "load_model"]

_HOMES = {
    "Config": "prolap.training.config",
    "ProLAP": "prolap.models.model",
    "TrainResult": "prolap.training.train",
    "load_config": "prolap.training.config",
    "load_model": "prolap.weights.checkpoint",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'prolap' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
