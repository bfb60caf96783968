"""The options of a run that every part below training reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from prolap.config.data import DataConfig, MaskConfig, MixConfig
from prolap.config.model import ModelConfig
from prolap.config.optim import OptimConfig, SafetyConfig
from prolap.config.options import Count, CountOrZero, Positive

BestMetric = Literal[
    "r1_t2a", "r1_a2t", "r1_mean", "r5_t2a", "r5_a2t", "r5_mean",
    "r10_t2a", "r10_a2t", "r10_mean", "map10_t2a", "map10_a2t", "map10_mean",
]  # fmt: skip


@dataclass(frozen=True)
class BaseConfig:
    """One run, without the terms of its loss, which `prolap.training.config.Config` adds."""

    plugins: tuple[str, ...] = ()
    """Python modules that are imported first: they register encoders, terms of the loss and layouts of your own."""
    run: str = "runs/prolap"
    """The run folder: resolved configuration, logs, checkpoints, metrics."""
    preset: str = "prolap"
    """The named settings that everything else builds on: prolap, prolap-v1, mixprolap, siglip, clap or quickstart, with `+` and a
    size where another than the published one is wanted: prolap+tiny, prolap+micro, prolap+laion."""
    init: str | None = None
    """Start from these weights: a run or checkpoint folder of prolap, or a public checkpoint."""
    init_format: str = "auto"
    """What `init` is: prolap, or a name in prolap.weights.importers.FORMATS; auto looks."""
    seed: CountOrZero = 0
    """Every random number of the run derives from it."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:1, ..."""
    threads: Count | None = None
    """Torch threads; None leaves torch's own choice."""
    batch_size: Count = 256
    """Pairs of a sound and a caption in a micro-batch."""
    steps: CountOrZero = 900
    """Optimiser steps. 0 makes a run of the starting weights, to evaluate what `init` brings."""
    epochs: Positive | None = None
    """Length of training in epochs instead of steps; of the two, the one that was set last counts."""
    log_every: Count = 10
    """Steps between two log lines."""
    eval_every: Count = 100
    """Steps between two dev evaluations; the last step always has one."""
    checkpoint_every: Count = 100
    """Steps between two checkpoints; a new best, the last step and Ctrl-C always write one."""
    best_metric: BestMetric = "r1_mean"
    """Dev metric whose highest value marks the best checkpoint: r1, r5, r10 or map10, each _t2a, _a2t or _mean."""
    patience: CountOrZero = 0
    """Dev evaluations without a new best before training stops; 0 never stops early."""
    workers: CountOrZero = 0
    """Processes that prepare batches; results do not depend on it."""
    tensorboard: bool = False
    """Also write TensorBoard logs into the run folder."""
    overfit: CountOrZero = 0
    """Train on one batch of so many clips again and again, and evaluate on it; 0 trains normally."""
    dry_run: bool = False
    """One step, one evaluation, one checkpoint, then stop."""
    data: DataConfig = field(default_factory=DataConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    safety: SafetyConfig = field(default_factory=SafetyConfig)
