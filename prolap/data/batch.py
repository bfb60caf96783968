"""What the loader hands to a training step."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

LEVELS = 4  # a chain runs from level 0, the most general caption, to level 3, the most specific


@dataclass(frozen=True)
class Batch:
    """B matched pairs of a sound and one of its captions."""

    audio: Tensor
    """[B, frames, mels] float32 log-mel."""
    frames: Tensor
    """[B] int64, frames that hold sound; the rest is padding."""
    tokens: Tensor
    """[B, L] int64, 0 is padding."""
    index: Tensor
    """[B] int64, the clip's index in its data set; several captions of one clip share it."""
    chain: Tensor
    """[B, 4] int64 semantic nodes of the clip, general to specific; -1 where unknown."""
    level: Tensor
    """[B] int64, the level in 0..3 that the caption was drawn from; -1 where unknown."""

    def to(self, device: torch.device | str) -> Batch:
        return Batch(*(getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)))

    def __len__(self) -> int:
        return self.index.numel()
