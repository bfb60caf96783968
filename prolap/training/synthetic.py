"""Training steps on synthetic batches: what memory a configuration takes, before there are any data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from prolap.data.batch import LEVELS, Batch, Mixtures
from prolap.data.loader import Loader
from prolap.models.encoders import AUDIO, TEXT
from prolap.models.model import build_model
from prolap.training import memory
from prolap.training.config import Config
from prolap.training.train import Trainer
from prolap.utils import environment
from prolap.utils.seeding import torch_generator


class SyntheticTokenizer:
    """A tokenizer by its size alone: it has no words."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size


class SyntheticLoader(Loader):
    """Batches of the encoders' `synthetic` inputs, the longest that training can meet, as a pure function of (seed, step)."""

    config: Config

    def __init__(self, config: Config) -> None:
        self.config = config
        self.size = config.overfit or config.batch_size

    @property
    def steps_per_epoch(self) -> int:
        """One, since there are no clips to go through."""
        return 1

    def batch(self, step: int) -> Batch:
        """Batch number `step`."""
        config, rows = self.config, self.size
        generator = torch_generator(config.seed, "rehearsal", step)
        sounds, captions = AUDIO[config.model.audio].synthetic, TEXT[config.model.text].synthetic
        audio = sounds(config, (rows,), generator)
        frames = torch.full((rows,), audio.shape[1])
        index = torch.arange(rows)
        mixtures = None
        if config.mixes:
            levels, mixed = config.mix.levels, max(1, round(config.mix.share * rows))
            mixtures = Mixtures(
                audio=sounds(config, (levels, mixed), generator),
                frames=frames[:mixed],
                tokens=captions(config, (mixed,), generator),
                partner=(index[:mixed] + 1) % rows,
                alpha=torch.linspace(1, 0.5, levels)[:, None].expand(-1, mixed),
                joined=torch.ones(mixed, dtype=torch.bool),
            )
        tokens = captions(config, (rows,), generator)
        unknown = torch.full((rows,), -1)
        return Batch(audio, frames, tokens, index, unknown[:, None].expand(-1, LEVELS), unknown, mixtures)


def synthetic_model(config: Config) -> Any:
    """A new model whose tokenizer has no words."""
    return build_model(config, SyntheticTokenizer(TEXT[config.model.text].tokenizer.synthetic_size))  # type: ignore[arg-type]


def synthetic_trainer(config: Config) -> Trainer:
    """A trainer of a new model on synthetic batches; it writes nothing."""
    config = replace(config, workers=0, epochs=None)
    model = synthetic_model(config).to(environment.pick_device(config.device))
    return Trainer(config, model, SyntheticLoader(config), None, {})


def peak_memory(config: Config, steps: int) -> dict[str, int]:
    """Peak bytes of each of `memory.PHASES` over a few optimiser steps, and of `all`; and what is held between steps:
    `weights`, `gradients`, `state` (the optimiser's). The first step has no optimiser state yet: take 2 or more.
    """
    if steps < 1:
        raise ValueError(f"steps: got {steps}, want at least 1.")
    device = environment.pick_device(config.device)
    if device.type == "cuda":
        peaks = memory.CudaPeaks(device)
        trainer = synthetic_trainer(config)
        _run(trainer, steps, peaks)
        sizes = {name.removeprefix("memory/"): round(value * 1e9) for name, value in peaks.read().items()}
        sizes["all"] = max(sizes.values())
    else:
        with memory.TracedPeaks() as traced:
            trainer = synthetic_trainer(config)
            _run(trainer, steps, traced)
        sizes = traced.bytes
    return sizes | _held(trainer)


def _run(trainer: Trainer, steps: int, peaks: memory.Peaks) -> None:
    stream = trainer.loader.batches(0)
    trainer.steps = steps
    with torch.random.fork_rng(devices=[]), memory.measuring(peaks):
        for _ in range(steps):
            trainer.update(stream)
            trainer.step += 1


def _held(trainer: Trainer) -> dict[str, int]:
    parameters, states = list(trainer.model.parameters()), trainer.optimizer.state.values()
    return {
        "weights": sum(value.nbytes for value in [*parameters, *trainer.model.buffers()]),
        "gradients": sum(p.grad.nbytes for p in parameters if p.grad is not None),
        "state": sum(value.nbytes for state in states for value in state.values() if isinstance(value, Tensor)),
    }
