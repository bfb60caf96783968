"""The weighted terms of the training loss. A new one is a file here, or in a plug-in, and one line below or `@register`."""

from __future__ import annotations

from prolap.training.terms.base import (
    TERMS,
    InclusionConfig,
    Levels,
    Logit,
    MatchedTerm,
    PairTerm,
    Term,
    TermConfig,
    active_terms,
    all_terms,
    loss_config,
    mixes,
    needs_masks,
    register,
    trains_uncertainty,
)
from prolap.training.terms.cross_inclusion import CrossInclusion
from prolap.training.terms.hierarchy import Hierarchy
from prolap.training.terms.masked_pairs import MaskedPairs
from prolap.training.terms.pairs import Pairs
from prolap.training.terms.repulsion import Repulsion
from prolap.training.terms.vib import VariationalBottleneck

register(Pairs)
register(MaskedPairs)
register(CrossInclusion)
register(Hierarchy)
register(VariationalBottleneck)
register(Repulsion)

__all__ = [
    "TERMS",
    "InclusionConfig",
    "Levels",
    "Logit",
    "MatchedTerm",
    "PairTerm",
    "Term",
    "TermConfig",
    "active_terms",
    "all_terms",
    "loss_config",
    "mixes",
    "needs_masks",
    "register",
    "trains_uncertainty",
]
