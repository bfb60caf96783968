"""The registry of scores: an entry is a file beside this one, or in a module of a user's own, that registers it."""

from __future__ import annotations

from dataclasses import replace

from ..checks import named_entry
from .base import Score
from .elementwise import derived

SCORES: dict[str, Score] = {}
"""What `score=` may name."""
NAMED: dict[str, Score] = {}
"""What raw ops find by name: the scores above, and objects that were handed in, under names that no other has."""


def register_score(score: Score) -> Score:
    """Let `score=` name this score from now on; returns it, ready for use.

    Errors: TypeError for anything but a Score, ValueError if another one has its name.
    """
    if not isinstance(score, Score):
        raise TypeError(f"score must be a Score, got {type(score).__name__}")
    score = completed(score)
    if SCORES.setdefault(score.name, score) != score:
        raise ValueError(f"score must have a name of its own, got {score.name!r}, which another one has")
    NAMED[score.name] = score
    return score


def completed(score: Score) -> Score:
    """The score with sums and gradients that are derived from its formula, where it has no faster ones."""
    if score.factor_x is None and score.elementwise is None:
        return replace(score, elementwise=derived(score.formula))
    return score


def named(score: Score) -> Score:
    """A score of the caller's own as raw ops find it."""
    return named_entry(completed(score), NAMED)
