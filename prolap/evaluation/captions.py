"""The captions of a data set: retrieval queries, the pool that walks retrieve from, a sample balanced over levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prolap.utils.seeding import numpy_generator

LEVELS = 4
"""Levels of generality, 0 (the most general) to 3 (the most specific): a chain has a caption of each."""
LIMIT = 20_000
PER_LEVEL = 500


@dataclass(frozen=True)
class Queries:
    """The captions that ask in retrieval, clip by clip."""

    texts: list[str]
    clip: NDArray[np.int64]
    """[captions] the clip of each."""

    @property
    def first(self) -> NDArray[np.int64]:
        """[clips] the index of each clip's first caption."""
        return np.unique(self.clip, return_index=True)[1]


def queries_of(data: Any) -> Queries:
    """The evaluation captions of every clip; a clip without one is an error."""
    captions = [data.evaluation_captions(clip) for clip in range(len(data))]
    counts = [len(each) for each in captions]
    if 0 in counts:
        raise ValueError(f"data has no evaluation caption for clip {counts.index(0)}; retrieval needs one a clip.")
    texts = [caption.text for each in captions for caption in each]
    return Queries(texts, np.repeat(np.arange(len(data), dtype=np.int64), counts))


@dataclass(frozen=True)
class Pool:
    """Distinct captions. The same words under two nodes are two captions."""

    texts: list[str]
    level: NDArray[np.int64]
    """[M] 0 general .. 3 specific, -1 unknown."""
    node: NDArray[np.int64]
    """[M] the meaning; paraphrases share it; -1 unknown."""
    of_clip: list[NDArray[np.int64]]
    """For each clip the indices of its captions in the pool."""

    @property
    def chained(self) -> NDArray[np.int64]:
        """Indices of the captions with a known node and level: those that walks may meet."""
        return np.flatnonzero((self.node >= 0) & (self.level >= 0))


def caption_pool(data: Any, *, limit: int = LIMIT, seed: int = 0) -> Pool:
    """All captions of all clips at all levels, all paraphrases, each distinct one once, in order of appearance.

    Above `limit` a seeded subset: one caption of every node first, so no meaning is lost, then others at random.
    """
    index: dict[tuple[str, int], int] = {}
    level: list[int] = []
    of_clip = []
    for clip in range(len(data)):
        own = []
        for caption in data.captions(clip):
            key = (caption.text, caption.node)
            if key not in index:
                index[key] = len(index)
                level.append(caption.level)
            own.append(index[key])
        of_clip.append(np.unique(np.array(own, dtype=np.int64)))
    texts, nodes = [text for text, _ in index], np.array([node for _, node in index], dtype=np.int64)
    kept = _subset(nodes, limit, seed)
    new = np.full(len(texts), -1, dtype=np.int64)
    new[kept] = np.arange(len(kept))
    return Pool(
        texts=[texts[i] for i in kept],
        level=np.array(level, dtype=np.int64)[kept],
        node=nodes[kept],
        of_clip=[new[own][new[own] >= 0] for own in of_clip],
    )


def _subset(nodes: NDArray[np.int64], limit: int, seed: int) -> NDArray[np.int64]:
    if len(nodes) <= limit:
        return np.arange(len(nodes))
    order = numpy_generator(seed, "caption pool").permutation(len(nodes))
    _, first = np.unique(nodes[order], return_index=True)
    head = order[np.sort(first)]
    rest = order[~np.isin(order, head)]
    return np.sort(np.concatenate([head, rest])[: max(limit, len(head))])


def balanced(pool: Pool, *, per_level: int = PER_LEVEL, seed: int = 0) -> NDArray[np.int64]:
    """Indices of at most `per_level` distinct captions of each level, seeded.

    The most specific level has the most distinct captions by far, so without this a correlation over the pool would
    be one over that level alone; a caption is never repeated, so nothing is counted twice.
    """
    generator = numpy_generator(seed, "balanced captions")
    rows = [generator.permutation(np.flatnonzero(pool.level == level))[:per_level] for level in np.unique(pool.level)]
    return np.sort(np.concatenate(rows)) if rows else np.zeros(0, dtype=np.int64)


def chained_clips(data: Any) -> list[int]:
    """The clips with a whole chain of semantic nodes."""
    return [clip for clip in range(len(data)) if len(data.chain(clip)) == LEVELS]


def word_counts(texts: Sequence[str]) -> NDArray[np.int64]:
    """Length of each text in words (runs of non-space)."""
    return np.array([len(text.split()) for text in texts], dtype=np.int64)


def random_word_strings(texts: Sequence[str], *, seed: int = 0) -> list[str]:
    """For each text a meaningless one of as many words, drawn evenly from the distinct words of all texts."""
    words = sorted({word for text in texts for word in text.split()})
    generator = numpy_generator(seed, "random words")
    return [" ".join(words[i] for i in generator.integers(len(words), size=len(text.split()))) for text in texts]
