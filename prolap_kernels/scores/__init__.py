"""Scores: how alike two Gaussians are. A new one is a file here and a line below."""

from __future__ import annotations

from ..checks import choose, named_entry
from .base import NAMED, SCORES, Elementwise, Factor, Score, register_score
from .inclusion import CONVENTIONS, INCLUSION

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
    """The score of this name, or one of the caller's own; `convention="prolip"` is the public variant of inclusion."""
    if isinstance(score, Score):
        if options:
            raise TypeError(f"score {score.name!r} takes no option {sorted(options)[0]!r}: it is an object of your own")
        return named_entry(score, NAMED)
    if not isinstance(score, str):
        choose("score", score, SCORES)
    convention = options.pop("convention", "exact")
    if options:
        raise TypeError(
            f"score {score!r} takes no option {sorted(options)[0]!r}; the only one is 'convention', of 'inclusion'"
        )
    choose("convention", convention, CONVENTIONS)
    if convention != "exact" and score != INCLUSION.name:
        raise TypeError(f"score {score!r} has no conventions; 'convention' belongs to 'inclusion'")
    return choose("score", score if convention == "exact" else f"{score}/{convention}", SCORES)


__all__ = [
    "BILINEAR", "CONVENTIONS", "ELEMENTWISE", "NAMED", "SCORES",
    "Elementwise", "Factor", "Score", "find_score", "register_score",
]  # fmt: skip
