"""What every data set offers to the loader and to evaluation, and its sounds in order; processes may read ahead."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from prolap.config import BaseConfig

Split = Literal["train", "dev", "test"]
Sounds = tuple[range, Tensor, Tensor]
"""Indices of clips, their log-mels [B, frames, mels] and valid frames [B]."""


class Caption(NamedTuple):
    """One caption of a clip."""

    text: str
    level: int
    """0 (most general) to 3 (most specific), -1 if unknown."""
    node: int
    """The semantic node: paraphrases of one meaning share it, -1 if unknown."""


@runtime_checkable
class AudioTextData(Protocol):
    """Clips with captions, indexed from 0.

    It may also have `order(seed, epoch)`, the clips of an epoch [len(self)] in the order of training (`prolap.data.loader`), and
    what mixtures need, `heard(i, epoch)` and `log_mel` (`prolap.data.mixing.Audible`).
    """

    name: str

    def __len__(self) -> int: ...

    def features(self, i: int) -> Tensor:
        """Log-mel [frames, mels] float32 of clip i."""
        ...

    def features_batch(self, indices: Sequence[int] | np.ndarray, epoch: int | None = None) -> tuple[Tensor, Tensor]:
        """Log-mels [B, frames, mels] float32, zero-padded, and their valid frames [B] int64.

        `epoch` seeds the crop of clips longer than `seconds` and augmentation; None is evaluation: the start, as it is.
        """
        ...

    def frames(self, i: int) -> int:
        """Valid frames of clip i; the rest is padding."""
        ...

    def captions(self, i: int) -> Sequence[Caption]:
        """All captions of clip i."""
        ...

    def evaluation_captions(self, i: int) -> Sequence[Caption]:
        """The captions of clip i that serve as retrieval queries."""
        ...

    def chain(self, i: int) -> tuple[int, ...]:
        """The four semantic nodes of clip i, general to specific; empty if unknown."""
        ...

    def unseen(self, i: int) -> bool:
        """Whether the set of sound sources in clip i is kept out of training."""
        ...

    def node_text(self, node: int) -> str:
        """A canonical text of a semantic node."""
        ...


def check_size(data: AudioTextData, config: BaseConfig) -> None:
    """ValueError if the data set has fewer clips than a batch, unless no step is asked for."""
    if config.steps == 0 and config.epochs is None and not config.overfit and not config.dry_run:
        return
    size = config.overfit or config.batch_size
    if len(data) < size:
        option = "overfit" if config.overfit else "batch_size"
        raise ValueError(f"{option} is {size}, but {data.name} has only {len(data)} clips")


def in_order(data: AudioTextData, size: int, workers: int = 0) -> Iterator[Sounds]:
    """`size` clips at a time, as `features_batch` gives them.

    Nothing depends on `workers`, the number of processes that read.
    """
    batches = _Batches(data, size)
    if not workers:
        return map(batches.__getitem__, range(len(batches)))
    generator = torch.Generator()  # else a number would be taken from the global one
    return iter(torch.utils.data.DataLoader(batches, batch_size=None, num_workers=workers, generator=generator))


class _Batches(torch.utils.data.Dataset[Sounds]):
    def __init__(self, data: AudioTextData, size: int) -> None:
        self.data, self.size = data, size

    def __len__(self) -> int:
        return math.ceil(len(self.data) / self.size)

    def __getitem__(self, number: int) -> Sounds:
        first = number * self.size
        indices = range(first, min(first + self.size, len(self.data)))
        return indices, *self.data.features_batch(indices)
