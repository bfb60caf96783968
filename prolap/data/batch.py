"""What the loader hands to a training step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

LEVELS = 4  # a chain runs from level 0, the most general caption, to level 3, the most specific


@dataclass(frozen=True)
class Mixtures:
    """The first b rows of a batch, each mixed with another row of it, at several levels from the purest to the most even."""

    audio: Tensor
    """[levels, b, frames, mels] float32 log-mel of alpha * own + (1 - alpha) * partner's waveform."""
    frames: Tensor
    """[b] int64, frames that hold sound, the same on all levels; the rest is padding."""
    tokens: Tensor
    """[b, L] int64, both captions joined, 0 is padding; one for all levels."""
    partner: Tensor
    """[b] int64, the row of the batch that each was mixed with."""
    alpha: Tensor
    """[levels, b] float32, the share of the row itself, falling from level to level."""
    joined: Tensor
    """[b] bool: whether the two captions differ, so that the joined one says more than either."""

    def to(self, device: torch.device | str) -> Mixtures:
        return Mixtures(*(getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)))


@dataclass(frozen=True)
class Batch:
    """B matched pairs of a sound and one of its captions."""

    audio: Tensor
    """[B, frames, mels] float32 log-mel."""
    frames: Tensor
    """[B] int64, frames that hold sound; the rest is padding."""
    tokens: Tensor
    """[B, L] int64, padded as the text encoder's tokenizer pads."""
    index: Tensor
    """[B] int64, the clip's index in its data set; several captions of one clip share it."""
    chain: Tensor
    """[B, 4] int64 semantic nodes of the clip, general to specific; -1 where unknown."""
    level: Tensor
    """[B] int64, the level in 0..3 that the caption was drawn from; -1 where unknown."""
    mixtures: Mixtures | None = None
    """Of the first rows, where `config.mix` asks for them and a term of the loss looks at them."""

    def to(self, device: torch.device | str) -> Batch:
        tensors = {f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)[:-1]}
        return Batch(**tensors, mixtures=self.mixtures and self.mixtures.to(device))

    def __len__(self) -> int:
        return self.index.numel()


def padded(mels: Sequence[Tensor], least: int = 0) -> tuple[Tensor, Tensor]:
    """Log-mels [frames, mels] as one [B, T, mels], zero behind their ends, and their frames [B]; T is at least `least`."""
    frames = torch.tensor([len(mel) for mel in mels], dtype=torch.int64)
    out = torch.nn.utils.rnn.pad_sequence(list(mels), batch_first=True) if mels else torch.zeros(0, 0, 0)
    return torch.nn.functional.pad(out, (0, 0, 0, max(0, least - out.shape[1]))), frames


def gathered(groups: Sequence[tuple[np.ndarray, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Groups of (rows of the batch, log-mels [b, frames, mels], valid frames [b]) as one batch, zero-padded to the longest."""
    order = np.argsort(np.concatenate([rows for rows, _, _ in groups]))
    mels = [mel for _, audio, _ in groups for mel in audio]
    return padded([mels[k] for k in order])[0], torch.cat([frames for _, _, frames in groups])[order]
