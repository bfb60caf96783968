"""The sounds of a whole data set in order, as evaluation wants them; processes may read ahead."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from prolap.data.dataset import AudioTextData

Sounds = tuple[range, Tensor, Tensor]


def in_order(data: AudioTextData, size: int, workers: int = 0) -> Iterator[Sounds]:
    """`size` clips at a time: their indices, log-mels [B, frames, mels] and valid frames [B], as `features_batch` gives them.

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
        return -(-len(self.data) // self.size)

    def __getitem__(self, number: int) -> Sounds:
        first = number * self.size
        indices = range(first, min(first + self.size, len(self.data)))
        return indices, *self.data.features_batch(indices)
