"""Fused losses for probabilistic embeddings: score x objective x pairs, and matched rows."""

from .functional import infonce_loss, mask_repulsive_loss, pairwise_loss, ppcl_loss
from .gaussian import Gaussian
from .matched import hierarchical_inclusion_loss, inclusion_loss, inclusion_score, vib_loss
from .matrix import pairwise_score
from .modules import InfoNCELoss, PPCLLoss
from .objectives import OBJECTIVES
from .scores import SCORES
from .stats import PairStats

__version__ = "0.1.0"

__all__ = [
    "OBJECTIVES",
    "SCORES",
    "Gaussian",
    "InfoNCELoss",
    "PPCLLoss",
    "PairStats",
    "hierarchical_inclusion_loss",
    "inclusion_loss",
    "inclusion_score",
    "infonce_loss",
    "mask_repulsive_loss",
    "pairwise_loss",
    "pairwise_score",
    "ppcl_loss",
    "vib_loss",
]
