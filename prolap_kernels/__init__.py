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
from .objectives import OBJECTIVES, Objective, pointwise_objective, register_objective
from .pairs import PairStats
from .scores import SCORES, Elementwise, Factor, Score, register_score
from .search import pairwise_rerank, pairwise_topk, score_blocks

__version__ = "0.1.0"

__all__ = [
    "OBJECTIVES", "SCORES", "Elementwise", "Factor", "Gaussian", "Inclusion", "InfoNCELoss", "Objective", "PPCLLoss",
    "PairStats", "Score", "Vib", "hierarchical_inclusion_loss", "inclusion_loss", "inclusion_score", "infonce_loss",
    "mask_repulsive_loss", "matched_losses", "pairwise_loss", "pairwise_rerank", "pairwise_score", "pairwise_topk",
    "pointwise_objective", "ppcl_loss", "register_objective", "register_score", "score_blocks", "vib_loss",
]  # fmt: skip
