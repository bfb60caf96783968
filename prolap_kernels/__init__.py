"""Fused losses for probabilistic embeddings: score x objective x pairs, and matched rows."""

from .gaussian import Gaussian
from .losses import infonce_loss, mask_repulsive_loss, pairwise_loss, ppcl_loss
from .matched import (
    Inclusion,
    Vib,
    hierarchical_inclusion_loss,
    inclusion_loss,
    inclusion_score,
    matched_losses,
    vib_loss,
)
from .matrix import pairwise_score
from .modules import InfoNCELoss, PPCLLoss
from .objectives import OBJECTIVES, Objective, pointwise
from .pairs import PairStats
from .scores import SCORES, Elementwise, Factor, Score
from .search import pairwise_rerank, pairwise_topk, score_blocks

__version__ = "0.1.0"

__all__ = [
    "Score",
    "Factor",
    "Elementwise",
    "pointwise",
    "Objective",
    "OBJECTIVES",
    "SCORES",
    "Gaussian",
    "Inclusion",
    "InfoNCELoss",
    "PPCLLoss",
    "PairStats",
    "Vib",
    "hierarchical_inclusion_loss",
    "inclusion_loss",
    "inclusion_score",
    "infonce_loss",
    "mask_repulsive_loss",
    "matched_losses",
    "pairwise_loss",
    "pairwise_rerank",
    "pairwise_score",
    "pairwise_topk",
    "ppcl_loss",
    "score_blocks",
    "vib_loss",
]
