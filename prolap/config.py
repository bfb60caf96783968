"""What a run is made of, as frozen dataclasses: every option the trainer knows, with its unit and default.

Nothing here does anything; each section is read by the module of the same name, and `prolap.settings` fills it in. The
docstring of a field is what `prolap train --help` says of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class DataConfig:
    """Where sounds and captions come from, and how sound becomes log-mel frames."""

    train: str = "scenes"
    """`scenes` (the embedded soundfont scenes) or the path of a manifest (.csv or .jsonl)."""
    dev: str | None = None
    """Manifest of the dev split; with scenes it is made by itself."""
    test: str | None = None
    """Manifest of the test split; with scenes it is made by itself."""
    soundfont: str | None = None
    """A .sf2 file for the scenes; None takes the one that the package `pretty_midi` ships."""
    cache: str | None = None
    """Folder for the note bank and cached log-mels; None takes the user's cache folder."""
    clips: int = 12_000
    """Scenes in the training pool."""
    dev_clips: int = 500
    """Scenes of the dev split."""
    test_clips: int = 1_000
    """Scenes of the test split."""
    seed: int = 0
    """Seed of the scenes themselves, apart from the training seed."""
    sample_rate: int = 16_000
    """Hz."""
    seconds: float = 3.2
    """Length of a clip as the encoder sees it; longer files are cropped (a seeded crop in training, the start
    otherwise), shorter ones padded."""
    min_seconds: float = 0.1
    """Shorter files are reported and skipped."""
    mels: int = 64
    """Mel bands of the log-mel spectrogram."""
    window: int = 1024
    """Length of the analysis window in samples."""
    hop: int = 320
    """Samples from one log-mel frame to the next."""
    level_weights: tuple[float, float, float, float] = (0.1, 0.15, 0.25, 0.5)
    """How often a training caption is drawn from each level of the chain, general to specific."""
    shared_captions: Literal["keep", "ignore", "positive"] = "keep"
    """Captions that also hold for other clips of the batch: `keep` counts them as negatives, `ignore` drops repetitions
    of a node, `positive` counts every clip whose chain holds the caption's node, each level weighed by one over the mean
    number of positives of its captions."""


@dataclass(frozen=True)
class MaskConfig:
    """Recursive masks: each still visible token is masked with probability `ratio`, level by level."""

    ratio: float = 0.75
    """Probability of a still visible token to be masked, from one level to the next."""
    share: float = 0.125
    """Share of the batch (its first rows) that also goes through masked copies."""
    audio_copies: int = 2
    """Masked copies of a sound, each with more masked than the one before."""
    text_copies: int = 3
    """Masked copies of a caption, each with more masked than the one before."""
    mode: Literal["substitute", "delete"] = "substitute"
    """A learnable [MASK] token in place of what is masked, or leave it out where the encoder can."""


@dataclass(frozen=True)
class ModelConfig:
    """The two encoders and their heads."""

    audio: str = "tiny"
    """Name in prolap.encoders.AUDIO."""
    text: str = "tiny"
    """Name in prolap.encoders.TEXT."""
    width: int = 256
    """Hidden width of the tiny encoders."""
    dim: int = 128
    """Dimensions of the embedding."""
    dropout: float = 0.0
    """Probability of a hidden unit to be dropped in training."""
    logvar: Literal["diagonal", "shared"] = "diagonal"
    """A log-variance per dimension, or one per sample spread over all dimensions."""
    logvar_init: float = -6.0
    """Log-variance of a new model."""
    logvar_bounds: tuple[float, float] = (-12.0, 4.0)
    """Smooth lower and upper bound of the log-variance."""
    detach_uncertainty: bool = False
    """Let no gradient pass from the log-variance head into the encoder."""


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


@dataclass(frozen=True)
class OptimConfig:
    """Optimiser, learning rates and precision."""

    optimizer: Literal["adam", "adamw"] = "adamw"
    """adamw decouples the weight decay from the gradient, adam adds it to the gradient."""
    lr: float = 1e-3
    """Highest learning rate of the encoders and the mean heads."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the running means of the gradient and of its square."""
    weight_decay: float = 0.01
    """Never on norms, biases, embeddings, [MASK] tokens, the log-variance heads, scale and bias."""
    scale_lr: float = 0.1
    """Learning rate of scale and bias."""
    logvar_lr: float | None = None
    """Learning rate of the log-variance heads; None takes `lr`."""
    warmup: float = 0.05
    """Share of the steps with a linear warm-up; a cosine to zero follows."""
    warmup_epochs: float | None = None
    """Warm-up in epochs instead of a share of the steps."""
    clip: float = 1.0
    """Bound on the gradient norm; 0 turns it off."""
    accumulate: int = 1
    """Micro-batches an optimiser step; each has `batch_size` pairs."""
    amp: Literal["off", "bf16", "fp16"] = "off"
    """Mixed precision; fp16 scales the loss."""


@dataclass(frozen=True)
class SafetyConfig:
    """When training stops by itself. Deterministic baselines, which train no log-variance, are not checked for it."""

    max_saturated: float = 0.95
    """Stop if a larger share of a modality's log-variances stands at a bound; 1 turns it off."""
    min_spread: float = 1e-5
    """Stop if the standard deviation over samples of the mean log-variance falls below (collapse); 0 turns it off."""
    max_skipped: int = 20
    """fp16: stop after so many steps in a row that the loss scaler skipped."""


@dataclass(frozen=True)
class Config:
    """One training run."""

    run: str = "runs/prolap"
    """The run folder: resolved configuration, logs, checkpoints, metrics."""
    preset: str = "prolap"
    """The named settings that everything else builds on: prolap, prolap-v1, siglip, clap, quickstart."""
    seed: int = 0
    """Every random number of the run derives from it."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:1, ..."""
    threads: int | None = None
    """Torch threads; None leaves torch's own choice."""
    batch_size: int = 256
    """Pairs of a sound and a caption in a micro-batch."""
    steps: int = 900
    """Optimiser steps."""
    epochs: float | None = None
    """Length of training in epochs instead of steps; of the two, the one that was set last counts."""
    log_every: int = 10
    """Steps between two log lines."""
    eval_every: int = 100
    """Steps between two dev evaluations; the last step always has one."""
    checkpoint_every: int = 100
    """Steps between two checkpoints; a new best, the last step and Ctrl-C always write one."""
    best_metric: str = "r1_mean"
    """Dev metric whose highest value marks the best checkpoint: r1, r5, r10 or map10, each _t2a, _a2t or _mean."""
    patience: int = 0
    """Dev evaluations without a new best before training stops; 0 never stops early."""
    workers: int = 0
    """Processes that prepare batches; results do not depend on it."""
    tensorboard: bool = False
    """Also write TensorBoard logs into the run folder."""
    overfit: int = 0
    """Train on one batch of so many clips again and again, and evaluate on it; 0 trains normally."""
    dry_run: bool = False
    """One step, one evaluation, one checkpoint, then stop."""
    data: DataConfig = field(default_factory=DataConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    safety: SafetyConfig = field(default_factory=SafetyConfig)
