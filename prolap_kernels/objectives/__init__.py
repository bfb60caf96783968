"""The registry of objectives: a new one is a file beside this one and a line in this table."""

from __future__ import annotations

from .base import Normaliser, Objective, Side
from .sigmoid import SIGMOID
from .softmax import SOFTMAX

OBJECTIVES: dict[str, Objective] = {objective.name: objective for objective in (SIGMOID, SOFTMAX)}

__all__ = ["OBJECTIVES", "Normaliser", "Objective", "Side"]
