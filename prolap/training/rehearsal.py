"""Training steps on made-up inputs: what memory a configuration takes, before there are any data."""

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


class StandIn:
    """A tokenizer by its size alone."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __call__(self, texts: Any) -> Tensor:
        raise NotImplementedError("a stand-in has no words")

    def to_json(self) -> str:
        raise NotImplementedError("a stand-in has no words")


class MadeUp(Loader):
    """Noise of `data.seconds` and captions of `model.max_tokens` tokens: the longest that training can meet."""

    config: Config

    def __init__(self, config: Config) -> None:
        self.config = config
        self.size = config.overfit or config.batch_size

    @property
    def steps_per_epoch(self) -> int:
        """Any number does."""
        return 1

    def batch(self, step: int) -> Batch:
        """Batch number `step`, a pure function of (seed, step)."""
        config, rows = self.config, self.size
        generator = torch_generator(config.seed, "rehearsal", step)
        sounds, captions = AUDIO[config.model.audio].synthetic, TEXT[config.model.text].synthetic
        audio = sounds(config, (rows,), generator)
        frames = torch.full((rows,), audio.shape[1])
        rng = torch.arange(rows)
        mixtures = None
        if config.mixes:
            levels, few = config.mix.levels, max(1, round(config.mix.share * rows))
            mixtures = Mixtures(
                audio=sounds(config, (levels, few), generator),
                frames=frames[:few],
                tokens=captions(config, (few,), generator),
                partner=(rng[:few] + 1) % rows,
                alpha=torch.linspace(1, 0.5, levels)[:, None].expand(-1, few),
                joined=torch.ones(few, dtype=torch.bool),
            )
        return Batch(
            audio=audio,
            frames=frames,
            tokens=captions(config, (rows,), generator),
            index=rng,
            chain=torch.full((rows, LEVELS), -1),
            level=torch.full((rows,), -1),
            mixtures=mixtures,
        )


def trainer(config: Config) -> Trainer:
    """A trainer of a new model on made-up batches; it writes nothing."""
    config = replace(config, workers=0, epochs=None)
    device = environment.pick_device(config.device)
    model = build_model(config, StandIn(TEXT[config.model.text].tokenizer.synthetic_size)).to(device)  # type: ignore[arg-type]
    return Trainer(config, model, MadeUp(config), None, {})


def rehearse(config: Config, steps: int) -> dict[str, int]:
    """Peak bytes of each of `memory.PHASES` over a few optimiser steps, and of `all`; and what is held between steps:
    `weights`, `gradients`, `state` (the optimiser's). The first step has no optimiser state yet: take 2 or more.
    """
    if steps < 1:
        raise ValueError(f"steps: got {steps}, want at least 1.")
    device = environment.pick_device(config.device)
    if device.type == "cuda":
        peaks = memory.CudaPeaks(device)
        made = trainer(config)
        _run(made, steps, peaks)
        found = {name.removeprefix("memory/"): round(value * 1e9) for name, value in peaks.read().items()}
        found["all"] = max(found.values())
    else:
        with memory.TracedPeaks() as traced:
            made = trainer(config)
            _run(made, steps, traced)
        found = traced.bytes
    return found | _held(made)


def _run(made: Trainer, steps: int, peaks: memory.Peaks) -> None:
    stream = made.loader.batches(0)
    made.steps = steps
    with torch.random.fork_rng(devices=[]), memory.measuring(peaks):
        for _ in range(steps):
            made.update(stream)
            made.step += 1


def _held(made: Trainer) -> dict[str, int]:
    parameters = list(made.model.parameters())
    state = [value for held in made.optimizer.state.values() for value in held.values() if isinstance(value, Tensor)]
    return {
        "weights": sum(value.nbytes for value in [*parameters, *made.model.buffers()]),
        "gradients": sum(p.grad.nbytes for p in parameters if p.grad is not None),
        "state": sum(value.nbytes for value in state),
    }
