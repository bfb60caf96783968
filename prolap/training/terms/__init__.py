"""The weighted terms of the training loss: a new one is a file here and one line below, or a plug-in."""

from __future__ import annotations

from prolap.training.terms.base import (
    TERMS,
    InclusionConfig,
    Logit,
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

# a line for each file, in the order of summation, which decides the last bits of the loss
# isort: off
from prolap.training.terms import pairs
from prolap.training.terms import masked_pairs
from prolap.training.terms import cross_inclusion
from prolap.training.terms import hierarchy
from prolap.training.terms import vib
from prolap.training.terms import repulsion
# isort: on

__all__ = [
    "TERMS",
    "InclusionConfig",
    "Logit",
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
