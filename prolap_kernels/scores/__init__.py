"""The registry of scores: a new one is a file beside this one and a line in this table."""

from __future__ import annotations

from ..checks import choose
from .base import Lift, Score
from .bhattacharyya import BHATTACHARYYA
from .containment import CONTAINMENT
from .csd import CSD
from .csd_distance import CSD_DISTANCE
from .dot import DOT
from .elk import ELK
from .inclusion import CONVENTIONS, INCLUSION, INCLUSION_PROLIP
from .jeffreys import JEFFREYS
from .kl import KL
from .mahalanobis import MAHALANOBIS
from .wasserstein2 import WASSERSTEIN2

LIFTS = (DOT, CSD, CSD_DISTANCE, WASSERSTEIN2)
TILES = (INCLUSION, INCLUSION_PROLIP, CONTAINMENT, KL, JEFFREYS, MAHALANOBIS, BHATTACHARYYA, ELK)
SCORES: dict[str, Score] = {score.name: score for score in LIFTS + TILES}


def find_score(name: str, **options: str) -> Score:
    """The score of this name; `convention="prolip"` picks the public variant of inclusion."""
    convention = options.pop("convention", "exact")
    if options:
        raise TypeError(
            f"score {name!r} takes no option {sorted(options)[0]!r}; the only one is 'convention', of 'inclusion'"
        )
    choose("convention", convention, CONVENTIONS)
    if convention != "exact" and name != "inclusion":
        raise TypeError(f"score {name!r} has no conventions; 'convention' belongs to 'inclusion'")
    return choose("score", name if convention == "exact" else f"{name}/{convention}", SCORES)


__all__ = ["CONVENTIONS", "LIFTS", "SCORES", "TILES", "Lift", "Score", "find_score"]
