"""The registry of objectives: a new one is a file beside this one and a line in this table."""

from __future__ import annotations

from .base import Normaliser, Objective, Side, pointwise
from .sigmoid import SIGMOID
from .softmax import SOFTMAX

OBJECTIVES: dict[str, Objective] = {objective.name: objective for objective in (SIGMOID, SOFTMAX)}
NAMED = dict(OBJECTIVES)
"""Every objective that a call has used by its name: those above, and objects of a user's own under names of their own."""

__all__ = ["NAMED", "OBJECTIVES", "Normaliser", "Objective", "Side", "pointwise"]
