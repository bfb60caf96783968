"""metrics.json: what an evaluation found, with all that is needed to know where it comes from."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from prolap.config import BaseConfig
from prolap.config.loading import to_dict
from prolap.utils import environment
from prolap.utils.files import write_text

SCHEMA_VERSION = 2


def document(
    config: BaseConfig,
    device: torch.device,
    sections: Mapping[str, Any],
    claims: Sequence[Mapping[str, Any]],
    seconds: Mapping[str, Any],
) -> dict[str, Any]:
    """The sections of `prolap.evaluation.protocol.evaluate` with configuration, versions, claims and times (s)."""
    found = environment.versions(device)
    return {
        "schema_version": SCHEMA_VERSION,
        "config": to_dict(config),
        "seed": config.seed,
        "commit": found.pop("commit"),
        "versions": found,
        **sections,
        "claims": list(claims),
        "seconds": dict(seconds),
    }


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write the document as strict JSON; a number that is not finite is an error that names it."""
    for name, value in _numbers(content, ""):
        if not math.isfinite(value):
            raise ValueError(f"metrics: {name} is {value}, want a finite number or null with a reason.")
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def _numbers(value: Any, name: str) -> list[tuple[str, float]]:
    if isinstance(value, Mapping):
        return [pair for key, inner in value.items() for pair in _numbers(inner, f"{name}.{key}" if name else str(key))]
    if isinstance(value, list | tuple):
        return [pair for index, inner in enumerate(value) for pair in _numbers(inner, f"{name}[{index}]")]
    return [(name, value)] if isinstance(value, float) else []
