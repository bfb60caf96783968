"""Objectives: a loss from the logits of all pairs. A new one is a file here and a line below."""

from __future__ import annotations

from . import sigmoid, softmax
from .base import NAMED, OBJECTIVES, Normaliser, Objective, Side, pointwise_objective, register_objective

__all__ = ["NAMED", "OBJECTIVES", "Normaliser", "Objective", "Side", "pointwise_objective", "register_objective"]
