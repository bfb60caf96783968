"""A temperature of another file as ours, which has smooth bounds."""

from __future__ import annotations

import math

import torch

from prolap.config import LossConfig
from prolap.models.heads import SATURATED, bound, scale_bounds, unbound


def bounded_scale(parameter: float, loss: LossConfig) -> float:
    """The logarithm of the scale that a model's `log_scale` means."""
    return float(bound(torch.tensor(parameter), *scale_bounds(loss)))


def start_scale(value: float, loss: LossConfig) -> tuple[float, list[str]]:
    """The `log_scale` whose scale is exp(value), and a note if it had to be moved inside our bounds.

    At or beyond a bound nothing could be learned, so such a scale starts where the slope is about 1/10.
    """
    lower, upper, width = scale_bounds(loss)
    inside = min(max(value, lower + SATURATED * width), upper - SATURATED * width)
    notes = []
    if inside != value:
        limits = f"loss.scale_min={loss.scale_min}, loss.scale_max={loss.scale_max}"
        notes.append(f"its scale {math.exp(value):.4g} starts at {math.exp(inside):.4g}, inside {limits}")
    return unbound(inside, lower, upper, width), notes
