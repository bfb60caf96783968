"""Scores, how alike two Gaussians are: a new one is a file here and one line below."""

from __future__ import annotations

from ..checks import choose
from .base import Elementwise, Factor, Score
from .inclusion import CONVENTIONS, INCLUSION
from .registry import NAMED, SCORES, named, register_score

# a line for each file, in the order of tables and help
# isort: off
from . import dot
from . import csd
from . import csd_distance
from . import wasserstein2
from . import inclusion
from . import containment
from . import kl
from . import jeffreys
from . import mahalanobis
from . import bhattacharyya
from . import elk
# isort: on

BILINEAR = tuple(score for score in SCORES.values() if score.elementwise is None)
ELEMENTWISE = tuple(score for score in SCORES.values() if score.elementwise is not None)


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
    return named(score)


__all__ = [
    "BILINEAR",
    "CONVENTIONS",
    "ELEMENTWISE",
    "NAMED",
    "SCORES",
    "Elementwise",
    "Factor",
    "Score",
    "find_score",
    "register_score",
]
