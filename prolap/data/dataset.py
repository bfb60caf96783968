"""What every source of sounds and captions offers to the loader and to evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from torch import Tensor


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
