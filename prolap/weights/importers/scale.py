"""A temperature of another file as ours, which has smooth bounds."""

from __future__ import annotations

import math

import torch

from prolap.config import ModelConfig
from prolap.models.heads import SATURATED, bound, scale_bounds, unbound


def bounded_scale(parameter: float, model: ModelConfig) -> float:
    """The logarithm of the scale that a model's `log_scale` means."""
    return float(bound(torch.tensor(parameter), *scale_bounds(model)))


def start_scale(value: float, model: ModelConfig) -> tuple[float, list[str]]:
    """The `log_scale` whose scale is exp(value), and a note if it had to be moved inside our bounds.

    At or beyond a bound nothing could be learned, so such a scale starts where the slope is about 1/10.
    """
    lower, upper, width = scale_bounds(model)
    inside = min(max(value, lower + SATURATED * width), upper - SATURATED * width)
    notes = []
    if inside != value:
        limits = f"model.scale_min={model.scale_min}, model.scale_max={model.scale_max}"
        notes.append(f"its scale {math.exp(value):.4g} starts at {math.exp(inside):.4g}, inside {limits}")
    return unbound(inside, lower, upper, width), notes
