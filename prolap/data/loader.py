"""Micro-batches of matched sounds and captions, a pure function of (seed, step)."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from prolap.config import BaseConfig
from prolap.data.batch import LEVELS, Batch, gathered
from prolap.data.dataset import AudioTextData, Caption, check_size
from prolap.data.mixing import Mixer
from prolap.utils.seeding import numpy_generator, torch_generator

Tokenizer = Callable[[list[str]], Tensor]
AGAIN = 1 << 20  # the n-th return of a clip within an epoch is drawn as if the epoch were epoch + n * AGAIN


def draw_caption(captions: Sequence[Caption], weights: Sequence[float], level_draw: float, draw: float) -> Caption:
    """A caption: its level by `weights` among the levels present, then any caption of that level.

    level_draw and draw are uniform in [0, 1). Captions of unknown level (-1) form one more level of weight 1.
    """
    levels = sorted({caption.level for caption in captions})
    shares = np.cumsum([1.0 if level < 0 else weights[level] for level in levels])
    if shares[-1] <= 0:  # only levels of weight 0: all are alike
        shares = np.arange(1.0, len(levels) + 1)
    level = levels[int(np.searchsorted(shares, level_draw * shares[-1], side="right"))]
    pool = [caption for caption in captions if caption.level == level]
    return pool[int(draw * len(pool))]


class Loader:
    """An infinite stream of micro-batches of `config.batch_size` pairs.

    Each epoch is a new order of the clips by (seed, epoch), the data set's own `order(seed, epoch)` where it has that method (it
    may name a clip several times); what does not fill a batch is left out. The caption of a clip, and the crop of a longer
    file, are drawn by (seed, epoch, index), anew each time that a clip returns within an epoch. `mixes` says whether batches
    hold mixtures (`prolap.data.mixing`). Nothing depends on `config.workers`.

    Errors: ValueError if the data set has fewer clips than a batch; ConfigError for mixtures that cannot be made.
    """

    def __init__(self, data: AudioTextData, tokenizer: Tokenizer, config: BaseConfig, mixes: bool = False) -> None:
        self.data = data
        self.tokenizer = tokenizer
        self.config = config
        check_size(data, config)
        self.size = config.overfit or config.batch_size
        if self.size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.size}")
        self.mixer = Mixer(data, tokenizer, config) if mixes else None

    @property
    def steps_per_epoch(self) -> int:
        """Micro-batches of an epoch."""
        return (
            1 if self.config.overfit else max(1, len(self.data) // self.size)
        )  # `steps: 0` may have less than a batch

    @functools.lru_cache(maxsize=2)  # noqa: B019  a loader lives as long as its run
    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The clips of an epoch, and the number that each is drawn by: epoch + n * AGAIN for its n-th return."""
        own = getattr(self.data, "order", None)
        if own is None:
            order = numpy_generator(self.config.seed, "order", epoch).permutation(len(self.data))
            return order, np.full(len(order), epoch)
        order = np.asarray(own(self.config.seed, epoch))
        if order.shape != (len(self.data),):
            raise ValueError(
                f"order: {self.data.name} gave shape {order.shape}, want one clip for each of {len(self.data)}"
            )
        return order, epoch + AGAIN * _returns(order)

    @functools.lru_cache(maxsize=16)  # noqa: B019
    def _draws(self, epoch: int) -> np.ndarray:
        return numpy_generator(self.config.seed, "caption", epoch).random((len(self.data), 2))

    def batch(self, step: int) -> Batch:
        """Micro-batch number `step`, counted from 0."""
        if self.config.overfit:
            step, indices, epochs = 0, np.arange(self.size), np.zeros(self.size, np.int64)
        else:
            epoch, position = divmod(step, self.steps_per_epoch)
            inside = slice(position * self.size, (position + 1) * self.size)
            indices, epochs = (values[inside] for values in self._order(epoch))
        weights = self.config.data.level_weights
        rows = list(zip(indices.tolist(), epochs.tolist(), strict=True))
        chosen = [draw_caption(self.data.captions(i), weights, *self._draws(epoch)[i]) for i, epoch in rows]
        texts = [caption.text for caption in chosen]
        audio, frames = self._sounds(indices, epochs)
        unknown = (-1,) * LEVELS
        return Batch(
            audio=audio,
            frames=frames,
            tokens=self.tokenizer(texts),
            index=torch.from_numpy(indices.astype(np.int64)),
            chain=torch.tensor([self.data.chain(i) or unknown for i in indices.tolist()], dtype=torch.int64),
            level=torch.tensor([caption.level for caption in chosen], dtype=torch.int64),
            mixtures=self.mixer(step, indices, epochs, texts, audio.shape[1]) if self.mixer else None,
        )

    def _sounds(self, indices: np.ndarray, epochs: np.ndarray) -> tuple[Tensor, Tensor]:
        """Log-mels and valid frames of clips, each drawn by its epoch."""
        different = np.unique(epochs)
        if len(different) == 1:
            return self.data.features_batch(indices, int(different[0]))
        groups = []
        for epoch in different:
            rows = np.flatnonzero(epochs == epoch)
            groups.append((rows, *self.data.features_batch(indices[rows], int(epoch))))
        return gathered(groups)

    def batches(self, start_step: int = 0) -> Iterator[Batch]:
        """Micro-batches `start_step`, `start_step` + 1, ... without end."""
        if start_step < 0:
            raise ValueError(f"start_step must not be negative, got {start_step}")
        if self.config.workers == 0:
            return map(self.batch, itertools.count(start_step))
        return iter(
            torch.utils.data.DataLoader(
                _Steps(self),
                batch_size=None,
                sampler=itertools.count(start_step),
                num_workers=self.config.workers,
                prefetch_factor=2,
                # without one of its own the DataLoader would take a number from the global generator
                generator=torch_generator(self.config.seed, "workers"),
            )
        )


def _returns(order: np.ndarray) -> np.ndarray:
    """How often the clip at each place stands before it."""
    places = np.argsort(order, kind="stable")
    clips = order[places]
    first = np.searchsorted(clips, clips)
    out = np.empty(len(order), np.int64)
    out[places] = np.arange(len(order)) - first
    return out


class _Steps(torch.utils.data.Dataset[Batch]):
    """Step number -> batch, for the workers of a DataLoader, which keeps their order."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __getitem__(self, step: int) -> Batch:
        return self.loader.batch(step)
