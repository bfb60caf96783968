"""The whole evaluation of a model, beside its deterministic baseline where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prolap.config import MaskConfig
from prolap.evaluation import sections
from prolap.evaluation import uncertainty as u_
from prolap.evaluation.embed import Embedded, embed_masked_texts, embed_sounds, embed_texts, flat, pick
from prolap.evaluation.evidence import Evidence, chained_clips, mask_sweep, three_paths
from prolap.evaluation.pool import Pool, balanced, caption_pool
from prolap.evaluation.retrieval import TwoWay, retrieve, risk_coverage
from prolap.evaluation.traversal import Traversal, label_free_root, oracle_root, starts, traverse
from prolap_kernels import Gaussian

ROOTS = ("empty", "label_free", "oracle")


@dataclass
class Evaluation:
    """`metrics` go to metrics.json; `evidence` to the plots."""

    metrics: dict[str, Any]
    evidence: Evidence


@dataclass(frozen=True)
class _Side:
    """One model's embeddings of the test set."""

    model: Any
    score: str
    sounds: Embedded
    captions: Gaussian
    masked_texts: Embedded | None
    pool: Gaussian
    empty: Gaussian
    ranks: TwoWay


@dataclass(frozen=True)
class _Queries:
    texts: list[str]
    clip: NDArray[np.int64]

    @property
    def first(self) -> NDArray[np.int64]:
        """The place of each clip's first caption."""
        return np.unique(self.clip, return_index=True)[1]


def evaluate(
    model: Any, data: Any, *, baseline: Any = None, seed: int = 0, mask: MaskConfig | None = None
) -> dict[str, Any]:
    """The sections retrieval, baseline, uncertainty, inclusion, traversal, comparison and reasons of metrics.json.

    All numbers are fractions. A value that cannot be computed is None, with the reason under `reasons` by its path.
    `mask` defaults to MaskConfig(). The model is scored by its own `config.model.score` (csd without one), the
    baseline by `dot`. See `evaluate_full` for what the plots need besides.
    """
    return evaluate_full(model, data, baseline=baseline, seed=seed, mask=mask).metrics


def evaluate_retrieval(model: Any, data: Any, workers: int = 0) -> dict[str, Any]:
    """The retrieval section alone: quick enough for every dev evaluation during training."""
    queries = _queries(data)
    sounds = embed_sounds([model], data, workers=workers)[0]
    ranks = retrieve(sounds.plain, embed_texts(model, queries.texts), queries.clip, score=score_of(model))
    metrics: dict[str, Any] = sections.tidy(sections.retrieval_section(ranks, _unseen(data)), "", {})
    return metrics


def evaluate_full(
    model: Any, data: Any, *, baseline: Any = None, seed: int = 0, mask: MaskConfig | None = None, workers: int = 0
) -> Evaluation:
    """`evaluate` and the evidence for the plots; `workers` processes read the sounds ahead."""
    mask = mask or MaskConfig()
    if len(data) < 2:
        raise ValueError(f"data has {len(data)} clips; an evaluation needs at least 2.")
    queries, pool = _queries(data), caption_pool(data, seed=seed)
    models = [model] if baseline is None else [model, baseline]
    sounds = embed_sounds(models, data, mask, seed=seed, workers=workers)
    ours = _side(model, score_of(model), sounds[0], queries, pool, mask, seed)
    theirs = None if baseline is None else _side(baseline, "dot", sounds[1], queries, pool, mask, seed)
    evidence, unseen = Evidence(), _unseen(data)
    raw: dict[str, Any] = {"retrieval": sections.retrieval_section(ours.ranks, unseen)}
    raw["uncertainty"], raw["inclusion"] = _probabilistic(ours, theirs, queries, pool, seed, evidence)
    raw["traversal"], walks = _traversals(ours, data, pool)
    base, base_walks = (sections.NO_BASELINE, {}) if theirs is None else _traversals(theirs, data, pool)
    raw["baseline"] = {
        "retrieval": sections.retrieval_section(theirs.ranks, unseen) if theirs else sections.NO_BASELINE,
        "traversal": base,
    }
    raw["comparison"] = {
        "retrieval": sections.retrieval_comparison(ours.ranks, theirs.ranks, seed) if theirs else sections.NO_BASELINE,
        "traversal": {
            name: sections.traversal_comparison(walk, base_walks.get(name), seed) for name, walk in walks.items()
        },
    }
    if ours.score != "dot":
        first = [queries.texts[i] for i in queries.first]
        evidence.sweep = mask_sweep(model, data, first, mask, seed)
    evidence.paths = three_paths(walks, data, pool)
    reasons: dict[str, str] = {}
    metrics = sections.tidy(raw, "", reasons)
    return Evaluation({**metrics, "reasons": reasons}, evidence)


def score_of(model: Any) -> str:
    """The score that the model was trained with: `config.model.score`, or csd."""
    config = getattr(model, "config", None)
    return "csd" if config is None else str(config.model.score)


def _queries(data: Any) -> _Queries:
    texts: list[str] = []
    clip: list[int] = []
    for index in range(len(data)):
        captions = data.evaluation_captions(index)
        if not len(captions):
            raise ValueError(f"data has no evaluation caption for clip {index}; retrieval needs one a clip.")
        texts.extend(caption.text for caption in captions)
        clip.extend([index] * len(captions))
    return _Queries(texts, np.array(clip, dtype=np.int64))


def _unseen(data: Any) -> NDArray[np.bool_]:
    return np.array([bool(data.unseen(index)) for index in range(len(data))], dtype=bool)


def _side(
    model: Any, score: str, sounds: Embedded, queries: _Queries, pool: Pool, mask: MaskConfig, seed: int
) -> _Side:
    captions = embed_texts(model, queries.texts)
    chosen = queries.first[sounds.rows.numpy()]
    masked = embed_masked_texts(model, [queries.texts[i] for i in chosen], mask, seed=seed)
    return _Side(
        model=model,
        score=score,
        sounds=sounds,
        captions=captions,
        masked_texts=masked,
        pool=embed_texts(model, pool.texts),
        empty=embed_texts(model, [""]),
        ranks=retrieve(sounds.plain, captions, queries.clip, score=score),
    )


def _probabilistic(
    ours: _Side, theirs: _Side | None, queries: _Queries, pool: Pool, seed: int, evidence: Evidence
) -> tuple[Any, Any]:
    """The uncertainty and inclusion sections."""
    if ours.score == "dot":
        return sections.DETERMINISTIC, sections.DETERMINISTIC
    rows = balanced(pool, seed=seed)
    random = embed_texts(ours.model, u_.random_word_strings([pool.texts[i] for i in rows], seed=seed))
    section, evidence.captions = sections.uncertainty_section(pool, rows, ours.pool, random, seed)
    audio, text = ours.sounds.plain, ours.captions
    section["risk_coverage"] = sections.risk_section(ours.ranks, audio, text, u_.word_counts(queries.texts), seed)
    section["by_mask"] = {"audio": sections.mask_means(ours.sounds)}
    inclusion = {"audio": sections.inclusion_section(ours.sounds, theirs.sounds if theirs else None, seed)}
    if ours.masked_texts is not None:
        section["by_mask"]["text"] = sections.mask_means(ours.masked_texts)
        baseline = theirs.masked_texts if theirs else None
        inclusion["text"] = sections.inclusion_section(ours.masked_texts, baseline, seed)
    evidence.risk = {
        "t2a": risk_coverage(ours.ranks.t2a.hits(1), u_.mean_logvar(text)),
        "a2t": risk_coverage(ours.ranks.a2t.hits(1), u_.mean_logvar(audio)),
    }
    return section, inclusion


def _traversals(side: _Side, data: Any, pool: Pool) -> tuple[Any, dict[str, Traversal]]:
    """Walks of every clip with a chain to each root, over the pool's captions with a known node."""
    rows = pool.chained
    clips = chained_clips(data)
    if len(clips) < 2 or not len(rows):
        return "fewer than 2 clips have a chain of 4 nodes", {}
    audio = pick(side.sounds.plain, torch.tensor(clips))
    captions, empty = pick(side.pool, torch.from_numpy(rows)), side.empty.mean[0]
    if side.score == "dot":
        audio, captions = flat(audio), flat(captions)
    level, node = pool.level[rows], pool.node[rows]
    chains: Sequence[Sequence[int]] = [data.chain(index) for index in clips]
    start = starts(audio, captions, score=side.score)
    found = label_free_root(audio, captions)
    roots = {"empty": empty, "label_free": captions.mean[found]}
    if (level == 0).any():
        roots["oracle"] = oracle_root(captions, level)
    walks = {name: traverse(start, root, captions, node, chains) for name, root in roots.items()}
    out: dict[str, Any] = {
        name: {**walks[name].metrics(), "n": len(clips), "captions": len(rows)}
        if name in walks
        else "no caption of the most general level is known"
        for name in ROOTS
    }
    out["label_free"]["root_level"] = int(level[found])
    return out, walks
