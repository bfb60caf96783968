"""Options of the weighted terms of the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class PairTerm:
    """Contrastive loss between sounds and captions: score times objective."""

    weight: float = 1.0
    """Weight in the total loss."""
    score: str = "csd"
    """How alike a sound and a caption are: csd (Gaussians), dot (means alone: a deterministic model), and others."""
    objective: Literal["sigmoid", "softmax"] = "sigmoid"
    """What scores become: sigmoid (PPCL, SigLIP) or softmax (InfoNCE, CLAP)."""


@dataclass(frozen=True)
class MaskedPairTerm:
    """Sigmoid loss between masked copies and the other modality unmasked: the own sample positive, all others negative."""

    weight: float = 0.0
    """Weight in the total loss; 0 leaves the term out."""
    score: str = "csd"
    """How alike a masked copy and the other side are, as in `pairs`."""


@dataclass(frozen=True)
class InclusionTerm:
    """-log sigmoid(scale * H(x in y)) on matched rows."""

    weight: float = 0.0
    """Weight in the total loss; 0 leaves the term out."""
    scale: float = 1.0
    """Factor on H inside the sigmoid."""
    convention: Literal["exact", "prolip"] = "exact"
    """`exact` is the formula as derived, `prolip` what ProLIP's public code computes."""
    reduce_dims: Literal["sum", "mean", "none"] = "sum"
    """H as a sum or a mean over dimensions, or a sigmoid for each dimension (none)."""
    detach_mean: bool = False
    """Let the loss move variances only."""


@dataclass(frozen=True)
class VibTerm:
    """KL(Z || N(0, I)), mean over rows and dimensions."""

    weight: float = 0.0
    """Weight in the total loss; 0 leaves the term out."""
    convention: Literal["exact", "prolip"] = "exact"
    """`exact` is the formula as derived, `prolip` what ProLIP's public code computes."""


@dataclass(frozen=True)
class RepulsionTerm:
    """Masked embeddings against other samples' embeddings, negatives only."""

    weight: float = 0.0
    """Weight in the total loss; 0 leaves the term out."""
    score: str = "csd"
    """How alike two embeddings are, as in `pairs`."""
    partner: Literal["cross", "same", "level"] = "cross"
    """The other modality unmasked, the same modality unmasked, or masked ones of the same level."""


@dataclass(frozen=True)
class LossConfig:
    """The weighted terms; a term of weight 0 is not computed. Field names are the names in logs."""

    pairs: PairTerm = PairTerm()
    masked_pairs: MaskedPairTerm = MaskedPairTerm()
    cross_inclusion: InclusionTerm = InclusionTerm()
    hierarchy: InclusionTerm = InclusionTerm()
    vib: VibTerm = VibTerm()
    repulsion: RepulsionTerm = RepulsionTerm()
    scale_init: float = 3.0
    """Initial scale of the logits (stored as its logarithm)."""
    bias_init: float = -5.5
    """Initial bias of the logits; the softmax objective has none."""
    scale_max: float = 100.0
    """Smooth upper bound of the scale."""
    scale_min: float | None = None
    """Smooth lower bound of the scale; None sets none."""
