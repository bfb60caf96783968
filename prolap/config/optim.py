"""Options of the optimiser, and of when training stops by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prolap.config.options import Count, CountOrZero, NotNegative, Positive, Share


@dataclass(frozen=True)
class OptimConfig:
    """Optimiser, learning rates and precision."""

    optimizer: Literal["adam", "adamw"] = "adamw"
    """adamw decouples the weight decay from the gradient, adam adds it to the gradient."""
    lr: Positive = 1e-3
    """Highest learning rate of the encoders and the mean heads."""
    audio_lr: NotNegative | None = None
    """Learning rate of the audio encoder; None takes `lr`."""
    text_lr: NotNegative | None = None
    """Learning rate of the text encoder; None takes `lr`."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the running means of the gradient and of its square."""
    weight_decay: NotNegative = 0.01
    """Never on norms, biases, embeddings, [MASK] tokens, the log-variance heads, scale and bias."""
    scale_lr: NotNegative = 0.1
    """Learning rate of scale and bias."""
    logvar_lr: NotNegative | None = None
    """Learning rate of the log-variance heads; None takes `lr`."""
    warmup: Share = 0.05
    """Share of the steps with a linear warm-up; a cosine to zero follows."""
    warmup_epochs: NotNegative | None = None
    """Warm-up in epochs instead of a share of the steps."""
    clip: NotNegative = 1.0
    """Bound on the gradient norm; 0 turns it off."""
    accumulate: Count = 1
    """Micro-batches an optimiser step; each has `batch_size` pairs."""
    chunk: CountOrZero = 0
    """GradCache: encode so many rows at a time, twice, so that memory does not grow with the batch; 0 encodes all at once."""
    amp: Literal["off", "bf16", "fp16"] = "off"
    """Mixed precision; fp16 scales the loss."""


@dataclass(frozen=True)
class SafetyConfig:
    """When training stops by itself. Deterministic baselines, which train no log-variance, are not checked for it."""

    max_saturated: Share = 0.95
    """Stop if a larger share of a modality's log-variances stands at a bound; 1 turns it off."""
    min_spread: NotNegative = 1e-5
    """Stop if after the warm-up the standard deviation over samples of the mean log-variance is below this (collapse); 0 turns
    it off."""
    max_skipped: Count = 20
    """fp16: stop after so many steps in a row that the loss scaler skipped."""
