"""Every random number of the trainer derives from (seed, keys): epoch, index, purpose. Nothing else holds state."""

from __future__ import annotations

import zlib

import numpy as np
import torch


def _entropy(seed: int, keys: tuple[int | str, ...]) -> np.random.SeedSequence:
    words = [zlib.crc32(key.encode()) if isinstance(key, str) else key for key in keys]
    return np.random.SeedSequence([seed, *words])


def numpy_generator(seed: int, *keys: int | str) -> np.random.Generator:
    """The generator of (seed, keys); keys are non-negative integers or strings that name a purpose."""
    return np.random.default_rng(_entropy(seed, keys))


def torch_generator(seed: int, *keys: int | str) -> torch.Generator:
    """The same for torch, on the CPU."""
    state = int(_entropy(seed, keys).generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator().manual_seed(state)
