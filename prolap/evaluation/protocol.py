"""The whole evaluation of a model, beside its deterministic baseline where there is one.

Each part of metrics.json comes from the file of its name: retrieval, uncertainty, inclusion, traversal. A section or
value that cannot be computed is a string, the reason; `tidy` turns it into null and files the reason by its path.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prolap.config import MaskConfig
from prolap.evaluation.captions import (
    Pool,
    Queries,
    balanced,
    caption_pool,
    queries_of,
    random_word_strings,
    word_counts,
)
from prolap.evaluation.embeddings import (
    NO_BASELINE,
    Embedded,
    embed_masked_texts,
    embed_sounds,
    embed_texts,
    is_probabilistic,
    score_of,
)
from prolap.evaluation.inclusion import inclusion_section
from prolap.evaluation.retrieval import (
    SameText,
    TextRepeats,
    TwoWay,
    above_chance,
    retrieval_comparison,
    retrieval_section,
    retrieve,
)
from prolap.evaluation.traversal import Traversal, Walk, quartile_walks, traversal_comparison, traversal_section
from prolap.evaluation.uncertainty import RiskCoverage, mask_means, mask_sweep, risk_section, uncertainty_section
from prolap_kernels import Gaussian

BASELINE_SCORE = "dot"
DETERMINISTIC = "the model is deterministic: its log-variances are not trained"
UNDEFINED = "undefined: no samples, or no variation among them"


@dataclass
class Evidence:
    """What the plots need beyond the metrics; empty where it could not be computed."""

    captions: dict[str, NDArray[Any]] = field(default_factory=dict)
    """u, u_random, length, level of the level-balanced captions."""
    sweep: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    """u against the share masked, see `mask_sweep`."""
    walks: list[Walk] = field(default_factory=list)
    """To the label-free root, see `quartile_walks`."""
    risk: dict[str, RiskCoverage] = field(default_factory=dict)
    """By direction."""


@dataclass
class Evaluation:
    """`metrics` go to metrics.json; `evidence` to the plots."""

    metrics: dict[str, Any]
    """Sections retrieval, baseline, uncertainty, inclusion, traversal, comparison and reasons. All numbers are fractions;
    a value that cannot be computed is None, with the reason under `reasons` by its path."""
    evidence: Evidence


@dataclass(frozen=True)
class _Side:
    """One model's embeddings of the test set."""

    score: str
    sounds: Embedded
    captions: Gaussian
    """Of the queries."""
    masked_texts: Embedded
    pool: Gaussian
    empty: Gaussian
    """Of the empty caption, [1, D]."""
    ranks: TwoWay


def evaluate(
    model: Any,
    data: Any,
    *,
    baseline: Any = None,
    seed: int = 0,
    mask: MaskConfig | None = None,
    workers: int = 0,
    same_text: SameText = "negative",
) -> Evaluation:
    """Every metric of the model on the data set, each with its control, and what the plots need.

    The model is scored by its own score (`score_of`), the baseline by the dot product of means. `mask` defaults to
    MaskConfig(). `workers` processes read the sounds ahead. `same_text`: whether a clip is right or wrong for a caption that it
    shares with the caption's own clip.
    """
    mask = mask or MaskConfig()
    if len(data) < 2:
        raise ValueError(f"data has {len(data)} clips; an evaluation needs at least 2.")
    queries, pool, unseen = queries_of(data), caption_pool(data, seed=seed), _unseen(data)
    models = [model] if baseline is None else [model, baseline]
    scores = [score_of(model), BASELINE_SCORE]
    sounds = embed_sounds(models, data, mask, seed=seed, workers=workers)
    repeats = TextRepeats(queries.texts, queries.clip)
    positives, repeated = repeats if same_text == "positive" else None, repeats.section(same_text)
    sides = [
        _side(m, s, e, queries, pool, mask, seed, positives) for m, s, e in zip(models, scores, sounds, strict=False)
    ]
    side, baseline_side = sides[0], sides[1] if len(sides) > 1 else None
    evidence = Evidence()
    retrieval = {**retrieval_section(side.ranks, unseen, repeated), "above_chance": above_chance(side.ranks, seed)}
    sections: dict[str, Any] = {"retrieval": retrieval}
    sections |= _probabilistic_sections(model, side, baseline_side, queries, pool, seed, evidence)
    sections["traversal"], walks = _traversals(side, data, pool)
    baseline_walks: dict[str, Traversal] = {}
    sections["baseline"] = {"retrieval": NO_BASELINE, "traversal": NO_BASELINE}
    sections["comparison"] = {"retrieval": NO_BASELINE}
    if baseline_side is not None:
        sections["baseline"]["retrieval"] = retrieval_section(baseline_side.ranks, unseen, repeated)
        sections["baseline"]["traversal"], baseline_walks = _traversals(baseline_side, data, pool)
        sections["comparison"]["retrieval"] = retrieval_comparison(side.ranks, baseline_side.ranks, seed)
    sections["comparison"]["traversal"] = {
        root: traversal_comparison(walk, baseline_walks.get(root), seed) for root, walk in walks.items()
    }
    if is_probabilistic(side.score):
        evidence.sweep = mask_sweep(model, data, [queries.texts[i] for i in queries.first], mask, seed)
    if "label_free" in walks:
        evidence.walks = quartile_walks(walks["label_free"], data, pool)
    reasons: dict[str, str] = {}
    metrics = tidy(sections, "", reasons)
    return Evaluation({**metrics, "reasons": reasons}, evidence)


def evaluate_retrieval(model: Any, data: Any, workers: int = 0, same_text: SameText = "negative") -> dict[str, Any]:
    """The retrieval section alone: quick enough for every dev evaluation during training."""
    queries = queries_of(data)
    sounds = embed_sounds([model], data, workers=workers)[0]
    repeats = TextRepeats(queries.texts, queries.clip)
    positives = repeats if same_text == "positive" else None
    captions = embed_texts(model, queries.texts)
    ranks = retrieve(sounds.plain, captions, queries.clip, score=score_of(model), positives=positives)
    metrics: dict[str, Any] = tidy(retrieval_section(ranks, _unseen(data), repeats.section(same_text)), "", {})
    return metrics


def _unseen(data: Any) -> NDArray[np.bool_]:
    return np.array([bool(data.unseen(clip)) for clip in range(len(data))], dtype=bool)


def _side(
    model: Any,
    score: str,
    sounds: Embedded,
    queries: Queries,
    pool: Pool,
    mask: MaskConfig,
    seed: int,
    positives: TextRepeats | None,
) -> _Side:
    texts = list(
        dict.fromkeys([*queries.texts, *pool.texts])
    )  # each once, so that equal captions have equal embeddings
    number = {text: row for row, text in enumerate(texts)}
    embedded = embed_texts(model, texts)
    captions = embedded.rows(torch.tensor([number[text] for text in queries.texts]))
    first = torch.from_numpy(queries.first)[sounds.rows]
    return _Side(
        score=score,
        sounds=sounds,
        captions=captions,
        masked_texts=embed_masked_texts(
            model, [queries.texts[i] for i in first], mask, seed=seed, plain=captions.rows(first)
        ),
        pool=embedded.rows(torch.tensor([number[text] for text in pool.texts])),
        empty=embed_texts(model, [""]),
        ranks=retrieve(sounds.plain, captions, queries.clip, score=score, positives=positives),
    )


def _traversals(side: _Side, data: Any, pool: Pool) -> tuple[Any, dict[str, Traversal]]:
    return traversal_section(data, pool, side.score, side.sounds.plain, side.pool, side.empty.mean[0])


def _probabilistic_sections(
    model: Any, side: _Side, baseline: _Side | None, queries: Queries, pool: Pool, seed: int, evidence: Evidence
) -> dict[str, Any]:
    """The sections uncertainty and inclusion."""
    if not is_probabilistic(side.score):
        return {"uncertainty": DETERMINISTIC, "inclusion": DETERMINISTIC}
    rows = balanced(pool, seed=seed)
    random = embed_texts(model, random_word_strings([pool.texts[i] for i in rows], seed=seed), "random word strings")
    uncertainty, evidence.captions = uncertainty_section(pool, rows, side.pool, random, seed)
    lengths = word_counts(queries.texts)
    uncertainty["risk_coverage"], evidence.risk = risk_section(
        side.ranks, side.sounds.plain, side.captions, lengths, seed
    )
    uncertainty["by_mask"] = {"audio": mask_means(side.sounds), "text": mask_means(side.masked_texts)}
    inclusion = {
        "audio": inclusion_section(side.sounds, baseline.sounds if baseline else None, seed),
        "text": inclusion_section(side.masked_texts, baseline.masked_texts if baseline else None, seed),
    }
    return {"uncertainty": uncertainty, "inclusion": inclusion}


def tidy(section: Any, path: str, reasons: dict[str, str]) -> Any:
    """JSON values: arrays to lists; NaN, and a reason in place of a value, to null with the reason filed by path."""
    if isinstance(section, dict):
        return {key: tidy(value, f"{path}.{key}" if path else str(key), reasons) for key, value in section.items()}
    if isinstance(section, str):
        reasons[path] = section
        return None
    if isinstance(section, list | tuple | np.ndarray):
        items: Sequence[Any] = section.tolist() if isinstance(section, np.ndarray) else section
        return [tidy(value, f"{path}.{index}", reasons) for index, value in enumerate(items)]
    if isinstance(section, float | np.floating):
        if not math.isfinite(section):
            reasons[path] = UNDEFINED
            return None
        return float(section)
    return int(section) if isinstance(section, np.integer) else section
