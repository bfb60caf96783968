"""Options of the encoders and their heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prolap.config.options import BelowOne, Count, Positive


@dataclass(frozen=True)
class ModelConfig:
    """The two encoders and their heads."""

    audio: str = "tiny"
    """Name in prolap.models.encoders.AUDIO."""
    text: str = "tiny"
    """Name in prolap.models.encoders.TEXT."""
    mean_head: str = "mlp"
    """Name in prolap.models.heads.MEAN_HEADS; a checkpoint's own projection is kept under its name (msclap, clap)."""
    text_pool: Literal["end", "count"] = "end"
    """Which token GPT-2's features are those of: `end`, its end token, or, as in MS-CLAP, `count`, the one numbered by the ids
    that are not 0, less one. They differ for captions with a "!", GPT-2's id 0."""
    tokenizer: str | None = None
    """Folder or tokenizer.json for text encoders that come without one (roberta); it is kept in the checkpoints."""
    max_tokens: Count = 77
    """Longest caption in tokens, its end token included; what comes after is cut."""
    checkpointing: bool = False
    """Recompute activations in backward instead of keeping them: less memory, about a third more time."""
    freeze: str = ""
    """Modules that do not learn and stay in evaluation mode, separated by commas: audio, text, audio.base, text.base.h.0, or
    patterns such as text.base.h.[0-5]."""
    width: Count = 256
    """Hidden width of the tiny encoders."""
    dim: Count = 128
    """Dimensions of the embedding."""
    dropout: BelowOne = 0.0
    """Probability of a hidden unit (HTS-AT: also of a block's attention) to be dropped in training; `mean_head` msclap has ½ of
    its own."""
    logvar: Literal["diagonal", "shared"] = "diagonal"
    """A log-variance per dimension, or one per sample spread over all dimensions."""
    logvar_init: float = -6.0
    """Log-variance of a new model."""
    logvar_bounds: tuple[float, float] = (-12.0, 4.0)
    """Smooth lower and upper bound of the log-variance."""
    detach_uncertainty: bool = False
    """Let no gradient pass from the log-variance head into the encoder."""
    score: str = "csd"
    """How alike a sound and a caption are, a name in prolap_kernels.SCORES: csd (Gaussians), dot (means alone: a deterministic
    model), and others."""
    scale_init: Positive = 3.0
    """Initial scale of the logits (stored as its logarithm)."""
    bias_init: float = -5.5
    """Initial bias of the logits; the softmax objective has none."""
    scale_max: Positive = 100.0
    """Smooth upper bound of the scale."""
    scale_min: Positive | None = None
    """Smooth lower bound of the scale; None sets none."""
