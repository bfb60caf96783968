"""Does uncertainty mean generality, or does it count words?

Sign convention: level 0 is the most general caption and level 3 the most specific. The claim is that specific captions
are less uncertain, so length, level and their partials correlate *negatively* with u when the claim holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from prolap.evaluation.statistics import (
    Interval,
    partial_spearman,
    partial_within,
    spearman,
    spearman_difference,
)
from prolap.utils.seeding import numpy_generator
from prolap_kernels import Gaussian

LEVELS = 4
Floats = NDArray[np.float64]


def mean_logvar(z: Gaussian) -> Floats:
    """u(Z) = (1/D) sum_d l_d, [N]: the logarithm of the geometric mean of the variances."""
    return z.logvar.double().mean(-1).numpy()


def trace(z: Gaussian) -> Floats:
    """sum_d v_d, [N]: with diagonal variances it can order samples the other way round than u."""
    return torch.exp(z.logvar.double()).sum(-1).numpy()


def word_counts(texts: Sequence[str]) -> NDArray[np.int64]:
    """Length of each text in words (runs of non-space)."""
    return np.array([len(text.split()) for text in texts], dtype=np.int64)


def random_word_strings(texts: Sequence[str], *, seed: int = 0) -> list[str]:
    """For each text a meaningless one of as many words, drawn evenly from the distinct words of all texts."""
    words = sorted({word for text in texts for word in text.split()})
    generator = numpy_generator(seed, "random words")
    return [" ".join(words[i] for i in generator.integers(len(words), size=len(text.split()))) for text in texts]


class LengthTest(NamedTuple):
    """Correlation of length with u on real captions and on random words of the same lengths."""

    real: float
    random: float
    difference: Interval
    """real - random; below 0 means more than counting words."""


def length_test(length: ArrayLike, u: ArrayLike, u_random: ArrayLike, *, seed: int = 0) -> LengthTest:
    """All [N]: lengths in words, u of the captions, u of random word strings of those lengths."""
    return LengthTest(
        spearman(length, u), spearman(length, u_random), spearman_difference(length, u, u_random, seed=seed)
    )


def level_partial(level: ArrayLike, u: ArrayLike, length: ArrayLike) -> float:
    """Partial rank correlation of level with u at fixed length; the claim wants it negative.

    Each exact length is held fixed (see `partial_within`), so nothing that is a function of length can pass.
    """
    return partial_within(level, u, length)


def level_partial_monotone(level: ArrayLike, u: ArrayLike, length: ArrayLike) -> float:
    """The usual partial Spearman correlation, which takes only a monotone effect of length away."""
    return partial_spearman(level, u, length)


def wordy_general(
    level: Sequence[int] | NDArray[np.int64], u: ArrayLike, length: ArrayLike, clip: Sequence[int] | NDArray[np.int64]
) -> Floats:
    """For each clip that has such pairs: the rate u(wordy but general) > u(terse but specific), a tie counts half.

    A pair is two captions of one clip of which the more general has strictly more words. A model that counts words
    has a rate near 0, one that reads generality near 1, chance is 1/2. Clips count equally.
    """
    levels, lengths, values = np.asarray(level), np.asarray(length), np.asarray(u, dtype=np.float64)
    clips = np.asarray(clip)
    rates = []
    order = np.argsort(clips, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(clips[order])) + 1):
        pair = (levels[rows, None] < levels[rows]) & (lengths[rows, None] > lengths[rows])
        if pair.any():
            more = (values[rows, None] > values[rows]) + 0.5 * (values[rows, None] == values[rows])
            rates.append(float(more[pair].mean()))
    return np.array(rates)


def by_level(level: ArrayLike, u: ArrayLike) -> list[float]:
    """Mean u of the captions of each level, general to specific; NaN where a level has none."""
    levels, values = np.asarray(level), np.asarray(u, dtype=np.float64)
    return [float(values[levels == k].mean()) if (levels == k).any() else float("nan") for k in range(LEVELS)]


class Matched(NamedTuple):
    """u by level at matched length."""

    lengths: list[int]
    """The lengths, in words, at which every level has enough captions."""
    mean: list[float]
    """[4] mean over those lengths of the mean u at each; NaN without any."""


def by_level_matched(level: ArrayLike, u: ArrayLike, length: ArrayLike, *, least: int = 3) -> Matched:
    """Levels compared on equal terms: only lengths at which all levels have `least` captions, each length once."""
    levels, lengths, values = np.asarray(level), np.asarray(length), np.asarray(u, dtype=np.float64)
    used, rows = [], []
    for words in np.unique(lengths):
        cells = [values[(lengths == words) & (levels == k)] for k in range(LEVELS)]
        if min(map(len, cells)) >= least:
            used.append(int(words))
            rows.append([float(cell.mean()) for cell in cells])
    return Matched(used, np.mean(rows, axis=0).tolist() if rows else [float("nan")] * LEVELS)
