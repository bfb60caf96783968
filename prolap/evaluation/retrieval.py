"""Retrieval: R@k and mAP@k from the ranks of the relevant gallery items, and the section `retrieval` of metrics.json.

Ranks are computed once for each query and kept, so every metric, also a paired comparison with another model, is a
function of them. Ties are broken against us: an irrelevant item that scores as high as a relevant one comes first.

Protocol: that of the audio literature (Koepke et al., "Audio retrieval with natural language queries", 2022; DCASE,
language-based audio retrieval). Text to audio: every caption is a query and its clip the one relevant item. Audio to
text: every clip is a query over all captions; R@k counts the best of its captions, mAP@10 divides by all of them.
A caption that several clips share is relevant to its own clip alone, as in published figures, unless `same_text` is "positive":
then it is relevant to all of them. `TextRepeats` counts such captions and the ceiling that they set.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from prolap.evaluation.statistics import bootstrap
from prolap_kernels import Gaussian, score_blocks

_ROWS = 64  # of a block, counted at a time
SameText = Literal["negative", "positive"]
"""What a clip is to a caption that it shares with the caption's own clip."""


@dataclass(frozen=True)
class Ranks:
    """The ranks of each query's relevant items, counted from 1."""

    ranks: NDArray[np.int64]
    """[Q, P] in ascending order, 0 behind the last relevant item."""
    positives: NDArray[np.int64]
    """[Q], how many items are relevant to each query."""
    gallery: int
    """How many items each query was compared with."""

    def __len__(self) -> int:
        return len(self.positives)

    def only(self, queries: ArrayLike) -> Ranks:
        """The same for some of the queries (indices or a mask); the gallery stays whole."""
        index = np.asarray(queries)
        return Ranks(self.ranks[index], self.positives[index], self.gallery)

    def hits(self, k: int) -> NDArray[np.float64]:
        """[Q] 1 where the best relevant item is among the first k, else 0."""
        return (self.ranks[:, 0] <= k).astype(np.float64)

    def average_precision(self, k: int) -> NDArray[np.float64]:
        """[Q] (1/P) sum_i i / r_i over the sorted ranks r_i <= k: P counts the relevant items missed too."""
        count = np.arange(1, self.ranks.shape[1] + 1)
        within = (self.ranks > 0) & (self.ranks <= k)
        precision: NDArray[np.float64] = np.where(within, count / np.maximum(self.ranks, 1), 0.0)
        return np.asarray(precision.sum(1) / self.positives, dtype=np.float64)

    @property
    def chance_r1(self) -> float:
        """Expected R@1 of a random order: the mean of P / gallery."""
        return float(np.mean(self.positives / self.gallery))


def _padded(relevance: Sequence[int] | Sequence[Sequence[int]] | NDArray[np.int64], gallery: int) -> NDArray[np.int64]:
    rows = [np.unique(np.atleast_1d(np.asarray(row, dtype=np.int64))) for row in relevance]
    for query, row in enumerate(rows):
        if not len(row):
            raise ValueError(f"relevance of query {query} is empty; each query needs a relevant item.")
        if row[0] < 0 or row[-1] >= gallery:
            raise ValueError(f"relevance of query {query} is {row.tolist()}; the gallery has {gallery} items.")
    out = np.full((len(rows), max(map(len, rows), default=1)), -1, dtype=np.int64)
    for query, row in enumerate(rows):
        out[query, : len(row)] = row
    return out


def ranks(
    queries: Gaussian,
    gallery: Gaussian,
    relevance: Sequence[int] | Sequence[Sequence[int]] | NDArray[np.int64],
    *,
    score: str = "csd",
) -> Ranks:
    """Ranks of the relevant items of each query, counted exactly over all scores in bounded blocks.

    `relevance[q]` is the index, or the indices, of the gallery items relevant to query q (binary). The i-th relevant
    item, best first, has rank i + (number of irrelevant items that score at least as high). Ranks are counted over the
    whole gallery, since a top-k search would not hold low ones. Scores are taken in float64 and rounded to float32, so
    that equal embeddings tie exactly wherever they stand in a matrix product. A score that is not finite is an error.

    Beyond the embeddings and numbers for each query and relevant item, memory is that of `score_blocks`: the same for
    any number of queries and items. The blocks with a relevant item are computed twice, first for its score.
    """
    relevant = torch.from_numpy(_padded(relevance, len(gallery.mean)))
    if len(relevant) != len(queries.mean):
        raise ValueError(f"relevance has {len(relevant)} rows for {len(queries.mean)} queries; each query needs one.")
    valid, relevant = relevant >= 0, relevant.to(queries.mean.device)
    blocks = partial(score_blocks, queries, gallery, score=score, precise=True)
    best = torch.full(relevant.shape, -torch.inf, device=relevant.device)
    for rows, columns, scores in blocks(select=lambda rows, columns: len(_inside(relevant[rows], columns)[0]) > 0):
        query, slot, item = _inside(relevant[rows], columns)
        best[rows][query, slot] = scores[query, item]
    best = best.sort(dim=1, descending=True).values
    above = torch.zeros_like(relevant)
    for rows, columns, scores in blocks():
        if not all(map(math.isfinite, torch.stack(torch.aminmax(scores)).tolist())):
            raise ValueError(f"score {score!r} of queries {rows.start} to {rows.stop - 1} is not finite.")
        query, _, item = _inside(relevant[rows], columns)
        scores[query, item] = -torch.inf
        # a few rows at a time: torch makes int64 of bools before it sums them
        for part, limits, count in zip(*(t.split(_ROWS) for t in (scores, best[rows], above[rows])), strict=True):
            for index, limit in enumerate(limits.T):
                count[:, index] += (part >= limit[:, None]).sum(1)
    result = torch.where(valid, above.cpu() + torch.arange(1, relevant.shape[1] + 1), 0)
    return Ranks(result.numpy(), valid.sum(1).numpy(), len(gallery.mean))


def _inside(relevant: torch.Tensor, columns: slice) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Row and slot in `relevant` of the items that lie in these columns, and each one's index among the columns."""
    query, slot = ((relevant >= columns.start) & (relevant < columns.stop)).nonzero(as_tuple=True)
    return query, slot, relevant[query, slot] - columns.start


def clips_to_captions(clip_of_caption: ArrayLike, clips: int) -> list[list[int]]:
    """For each of `clips` clips the indices of its captions: the relevance of audio-to-text."""
    out: list[list[int]] = [[] for _ in range(clips)]
    for caption, clip in enumerate(np.asarray(clip_of_caption, dtype=np.int64).tolist()):
        out[clip].append(caption)
    return out


def summary(result: Ranks) -> dict[str, float]:
    """`r1`, `r5`, `r10`, `map10`: fractions, means over the queries."""
    values = {f"r{k}": float(result.hits(k).mean()) for k in (1, 5, 10)}
    return {**values, "map10": float(result.average_precision(10).mean())}


@dataclass(frozen=True)
class TwoWay:
    """Both directions of one gallery of clips and captions."""

    t2a: Ranks
    """Every caption is a query; its clip is the one relevant item."""
    a2t: Ranks
    """Every clip is a query over all captions; all of its captions are relevant."""
    clip_of_caption: NDArray[np.int64]

    def metrics(self, clips: ArrayLike | None = None) -> dict[str, object]:
        """`t2a`, `a2t`, `n` (clips asked), `captions`, `gallery` (clips), `chance_r1`.

        `clips` (a mask over clips) restricts the queries, and never the gallery.
        """
        mask = np.ones(len(self.a2t), bool) if clips is None else np.asarray(clips, dtype=bool)
        t2a, a2t = self.t2a.only(mask[self.clip_of_caption]), self.a2t.only(mask)
        return {
            "t2a": summary(t2a),
            "a2t": summary(a2t),
            "n": len(a2t),
            "captions": len(t2a),
            "gallery": self.t2a.gallery,
            "chance_r1": t2a.chance_r1,
        }


class TextRepeats:
    """Captions that are alike but for case and spaces.

    texts: [captions]. clip: [captions] the clip of each.
    """

    def __init__(self, texts: Sequence[str], clip: ArrayLike) -> None:
        self.clip = np.asarray(clip, dtype=np.int64)
        plain = [" ".join(text.lower().split()) for text in texts]
        self.text = np.unique(np.array(plain), return_inverse=True)[1].reshape(-1)
        """[captions] numbers of the distinct texts."""
        self._counts = Counter(zip(self.text.tolist(), self.clip.tolist(), strict=True))

    def relevance(self, clips: int) -> tuple[list[list[int]], list[list[int]]]:
        """The clips that share each caption, and the captions that are alike with one of each of `clips` clips."""
        captions_of = clips_to_captions(self.text, int(self.text.max()) + 1)
        clips_of = [sorted(set(self.clip[captions].tolist())) for captions in captions_of]
        texts_of = [set(self.text[captions].tolist()) for captions in clips_to_captions(self.clip, clips)]
        alike = [[caption for text in texts for caption in captions_of[text]] for texts in texts_of]
        return [clips_of[text] for text in self.text], alike

    def ceiling(self, k: int) -> dict[str, float]:
        """The highest R@k by direction if other clips with the same text are wrong, for a model that reads equal texts alike.

        A text ranks the clips once, so at most k of the clips that share it find it among the first k. Of a clip's captions the
        one with the fewest copies on other clips decides: the copies score as high.
        """
        of_text: dict[int, list[int]] = defaultdict(list)
        for (text, _), count in self._counts.items():
            of_text[text].append(count)
        best = sum(sum(sorted(counts)[-k:]) for counts in of_text.values())
        copies = dict[int, int]()
        for (text, clip), count in self._counts.items():
            elsewhere = sum(of_text[text]) - count
            copies[clip] = min(elsewhere, copies.get(clip, elsewhere))
        return {"t2a": best / len(self.text), "a2t": sum(count < k for count in copies.values()) / len(copies)}

    def section(self, policy: SameText) -> dict[str, object]:
        """For metrics.json: `positive` (the policy); how many `captions`, `distinct` texts, and `shared` captions, which several
        clips have; the `ceiling` of R@1, R@5, R@10 in each direction."""
        at = {f"r{k}": self.ceiling(k) if policy == "negative" else {"t2a": 1.0, "a2t": 1.0} for k in (1, 5, 10)}
        ceiling = {way: {name: values[way] for name, values in at.items()} for way in ("t2a", "a2t")}
        clips = np.bincount([text for text, _ in self._counts])
        counts = {"captions": len(self.text), "distinct": len(clips), "shared": int((clips[self.text] > 1).sum())}
        return {"positive": policy == "positive", **counts, "ceiling": ceiling}


def retrieve(
    audio: Gaussian,
    text: Gaussian,
    clip_of_caption: ArrayLike,
    *,
    score: str = "csd",
    positives: TextRepeats | None = None,
) -> TwoWay:
    """Text-to-audio and audio-to-text ranks; `clip_of_caption` [captions] names each caption's clip.

    positives: captions that are relevant to every clip that shares them; None makes them relevant to their own alone.
    """
    clip, clips = np.asarray(clip_of_caption, dtype=np.int64), len(audio.mean)
    to_clips, to_captions = positives.relevance(clips) if positives else (clip, clips_to_captions(clip, clips))
    return TwoWay(
        t2a=ranks(text, audio, to_clips, score=score),
        a2t=ranks(audio, text, to_captions, score=score),
        clip_of_caption=clip,
    )


def retrieval_section(ranks: TwoWay, unseen: NDArray[np.bool_], same_text: dict[str, object]) -> dict[str, object]:
    """Both directions; `unseen_sources`: only clips of unseen source sets ask, and the gallery stays whole; `same_text`."""
    missing = "no clip of the data set is marked as having unseen sources"
    unseen_sources = ranks.metrics(unseen) if unseen.any() else missing
    return {**ranks.metrics(), "unseen_sources": unseen_sources, "same_text": same_text}


def above_chance(model: TwoWay, seed: int) -> dict[str, float]:
    """R@1 minus chance, the mean of both directions per clip, with its interval."""
    excesses = []
    for name in ("t2a", "a2t"):
        ranks = getattr(model, name)
        hits, clip = ranks.hits(1), model.clip_of_caption if name == "t2a" else np.arange(len(ranks))
        excesses.append(np.bincount(clip, weights=hits) / np.bincount(clip) - ranks.chance_r1)
    return bootstrap(sum(excesses) / 2, seed=seed)._asdict()


def retrieval_comparison(model: TwoWay, baseline: TwoWay, seed: int) -> dict[str, object]:
    """R@1 of the model minus the baseline's, each query with itself; `mean` averages both directions per clip.

    Captions of one clip are resampled together.
    """
    section: dict[str, object] = {}
    differences = []
    for name in ("t2a", "a2t"):
        hits, baseline_hits = getattr(model, name).hits(1), getattr(baseline, name).hits(1)
        clip = model.clip_of_caption if name == "t2a" else np.arange(len(hits))
        queries = np.bincount(clip)
        differences.append(np.bincount(clip, weights=hits - baseline_hits) / queries)
        section[name] = {"r1": bootstrap(differences[-1], seed=seed)._asdict()}
    section["mean"] = {"r1": bootstrap(sum(differences) / 2, seed=seed)._asdict()}
    return section
