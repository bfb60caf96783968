"""The captions of the test clips: the pool that walks retrieve from, and a sample balanced over levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prolap.utils.seeding import numpy_generator

LIMIT = 20_000
PER_LEVEL = 500


@dataclass(frozen=True)
class Pool:
    """Distinct captions. The same words under two nodes are two captions."""

    texts: list[str]
    level: NDArray[np.int64]
    """[M] 0 general .. 3 specific, -1 unknown."""
    node: NDArray[np.int64]
    """[M] the meaning; paraphrases share it; -1 unknown."""
    of_clip: list[NDArray[np.int64]]
    """For each clip the places of its captions in the pool."""

    @property
    def chained(self) -> NDArray[np.int64]:
        """Places of the captions with a known node and level: those that walks may meet."""
        return np.flatnonzero((self.node >= 0) & (self.level >= 0))


def caption_pool(data: Any, *, limit: int = LIMIT, seed: int = 0) -> Pool:
    """All captions of all clips at all levels, all paraphrases, each distinct one once, in order of appearance.

    Above `limit` a seeded subset: one caption of every node first, so no meaning is lost, then others at random.
    """
    place: dict[tuple[str, int], int] = {}
    level: list[int] = []
    of_clip = []
    for clip in range(len(data)):
        mine = []
        for caption in data.captions(clip):
            key = (caption.text, caption.node)
            if key not in place:
                place[key] = len(place)
                level.append(caption.level)
            mine.append(place[key])
        of_clip.append(np.unique(np.array(mine, dtype=np.int64)))
    texts, nodes = [text for text, _ in place], np.array([node for _, node in place], dtype=np.int64)
    kept = _subset(nodes, limit, seed)
    new = np.full(len(texts), -1, dtype=np.int64)
    new[kept] = np.arange(len(kept))
    return Pool(
        texts=[texts[i] for i in kept],
        level=np.array(level, dtype=np.int64)[kept],
        node=nodes[kept],
        of_clip=[new[mine][new[mine] >= 0] for mine in of_clip],
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
    """Places of at most `per_level` distinct captions of each level, seeded.

    The most specific level has the most distinct captions by far, so without this a correlation over the pool would
    be one over that level alone; a caption is never repeated, so nothing is counted twice.
    """
    generator = numpy_generator(seed, "balanced captions")
    parts = []
    for level in np.unique(pool.level):
        rows = np.flatnonzero(pool.level == level)
        parts.append(generator.permutation(rows)[:per_level])
    return np.sort(np.concatenate(parts)) if parts else np.zeros(0, dtype=np.int64)
