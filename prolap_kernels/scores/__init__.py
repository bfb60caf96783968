"""The registry of scores: a new one is a file beside this one and a line in this table."""

from __future__ import annotations

from dataclasses import replace

from ..checks import choose, named_entry
from .base import Elementwise, Factor, Score
from .bhattacharyya import BHATTACHARYYA
from .containment import CONTAINMENT
from .csd import CSD
from .csd_distance import CSD_DISTANCE
from .dot import DOT
from .elementwise import derived
from .elk import ELK
from .inclusion import CONVENTIONS, INCLUSION, INCLUSION_PROLIP
from .jeffreys import JEFFREYS
from .kl import KL
from .mahalanobis import MAHALANOBIS
from .wasserstein2 import WASSERSTEIN2

BILINEAR = (DOT, CSD, CSD_DISTANCE, WASSERSTEIN2)
ELEMENTWISE = (INCLUSION, INCLUSION_PROLIP, CONTAINMENT, KL, JEFFREYS, MAHALANOBIS, BHATTACHARYYA, ELK)
SCORES: dict[str, Score] = {score.name: score for score in BILINEAR + ELEMENTWISE}
NAMED = dict(SCORES)
"""Every score that a call has used by its name: those above, and objects of a user's own under names of their own."""


def find_score(score: str | Score, **options: str) -> Score:
    """The score of this name, `convention="prolip"` being the public variant of inclusion, or a score of the caller's own."""
    if isinstance(score, Score):
        return _own(score, options)
    convention = options.pop("convention", "exact")
    if options:
        raise TypeError(
            f"score {score!r} takes no option {sorted(options)[0]!r}; the only one is 'convention', of 'inclusion'"
        )
    choose("convention", convention, CONVENTIONS)
    if convention != "exact" and score != INCLUSION.name:
        raise TypeError(f"score {score!r} has no conventions; 'convention' belongs to 'inclusion'")
    return choose("score", score if convention == "exact" else f"{score}/{convention}", SCORES)


def _own(score: Score, options: dict[str, str]) -> Score:
    if options:
        raise TypeError(f"score {score.name!r} takes no option {sorted(options)[0]!r}: it is an object of your own")
    if score.factor_x is None and score.elementwise is None:
        score = replace(score, elementwise=derived(score.formula))
    return named_entry(score, NAMED)


__all__ = ["BILINEAR", "CONVENTIONS", "ELEMENTWISE", "NAMED", "SCORES", "Elementwise", "Factor", "Score", "find_score"]
