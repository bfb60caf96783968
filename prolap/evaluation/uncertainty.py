"""Does uncertainty mean generality, or does it count words? And does it say which queries will fail?

Sign convention: level 0 is the most general caption and level 3 the most specific. The claim is that specific captions
are less uncertain, so length, level and their partials correlate *negatively* with u when the claim holds.

Protocol: the correlation of length with u is published (ProLIP, ProLAP); random words of equal lengths, the partial of
level at fixed length and wordy general captions are our controls. Risk and coverage: El-Yaniv and Wiener (2010).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from prolap.config import MaskConfig
from prolap.evaluation.captions import LEVELS, Pool, word_counts
from prolap.evaluation.embeddings import Embedded, masked_sounds, masked_texts
from prolap.evaluation.retrieval import TwoWay
from prolap.evaluation.statistics import (
    Interval,
    bootstrap,
    bootstrap_weighted,
    partial_spearman,
    partial_within,
    spearman,
    spearman_difference,
)
from prolap.models.model import evaluating
from prolap.utils.progress import watched
from prolap.utils.seeding import torch_generator
from prolap_kernels import Gaussian

HALF = 0.5
SWEEP = (0.0, 0.2, 0.4, 0.6, 0.75, 0.9)
"""Mask ratios of the plot."""
SWEEP_CLIPS = 160
UNKNOWN_LEVELS = "no caption has a known level"
Section = dict[str, Any]
Floats = NDArray[np.float64]


def mean_logvar(z: Gaussian) -> Floats:
    """u(Z) = (1/D) sum_d l_d, [N]: the logarithm of the geometric mean of the variances."""
    return z.logvar.double().mean(-1).numpy()


def trace(z: Gaussian) -> Floats:
    """sum_d v_d, [N]: with diagonal variances it can order samples the other way round than u."""
    return torch.exp(z.logvar.double()).sum(-1).numpy()


def wordy_general(
    level: Sequence[int] | NDArray[np.int64], u: ArrayLike, length: ArrayLike, clip: Sequence[int] | NDArray[np.int64]
) -> Floats:
    """For each clip that has such pairs: the rate u(wordy but general) > u(terse but specific), a tie counts half.

    A pair is two captions of one clip of which the more general has strictly more words. A model that counts words
    has a rate near 0, one that reads generality near 1, chance is 1/2. Clips count equally.
    """
    return _wordy_pairs(level, u, length, clip)[0]


def _wordy_pairs(
    level: Sequence[int] | NDArray[np.int64], u: ArrayLike, length: ArrayLike, clip: Sequence[int] | NDArray[np.int64]
) -> tuple[Floats, NDArray[np.int64], Floats, Floats]:
    """The rates of the clips; and of all clips' pairs: rows [P, 2] (general, specific), outcome [P], weight in the mean [P]."""
    levels, lengths, values = np.asarray(level), np.asarray(length), np.asarray(u, dtype=np.float64)
    clips = np.asarray(clip)
    rates, pairs, outcomes, weights = [], [np.zeros((0, 2), dtype=np.int64)], [np.zeros(0)], [np.zeros(0)]
    order = np.argsort(clips, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(clips[order])) + 1):
        pair = (levels[rows, None] < levels[rows]) & (lengths[rows, None] > lengths[rows])
        if pair.any():
            more = (values[rows, None] > values[rows]) + 0.5 * (values[rows, None] == values[rows])
            rates.append(float(more[pair].mean()))
            pairs.append(rows[np.argwhere(pair)])
            outcomes.append(more[pair])
            weights.append(np.full(len(outcomes[-1]), 1 / len(outcomes[-1])))
    return np.array(rates), np.concatenate(pairs), np.concatenate(outcomes), np.concatenate(weights)


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
    kept, rows = [], []
    for words in np.unique(lengths):
        cells = [values[(lengths == words) & (levels == k)] for k in range(LEVELS)]
        if min(map(len, cells)) >= least:
            kept.append(int(words))
            rows.append([float(cell.mean()) for cell in cells])
    return Matched(kept, np.mean(rows, axis=0).tolist() if rows else [float("nan")] * LEVELS)


@dataclass(frozen=True)
class RiskCoverage:
    """What retrieval gains when it may decline the queries it is least sure of."""

    coverage: NDArray[np.float64]
    """[steps] share of the queries answered, 1/N .. 1."""
    hit_rate: NDArray[np.float64]
    """[steps] mean hit among the answered ones; risk is 1 - hit_rate."""

    def at(self, coverage: float) -> float:
        """Hit rate at this coverage."""
        return float(np.interp(coverage, self.coverage, self.hit_rate))

    @property
    def area(self) -> float:
        """Mean risk over all coverages (AURC); lower is better."""
        return float(1.0 - self.hit_rate.mean())


def risk_coverage(hits: ArrayLike, uncertainty: ArrayLike) -> RiskCoverage:
    """Answer the queries in ascending order of `uncertainty` [Q]; `hits` [Q] in 0..1.

    Queries of equal uncertainty count with the mean hit of their group, the expectation over their order.
    """
    hit = np.asarray(hits, dtype=np.float64)
    _, group = np.unique(np.asarray(uncertainty, dtype=np.float64), return_inverse=True)
    size = np.bincount(group)
    expected = (np.bincount(group, weights=hit) / size)[np.sort(group)]
    count = np.arange(1, len(hit) + 1)
    return RiskCoverage(count / len(hit), np.cumsum(expected) / count)


def uncertainty_section(
    pool: Pool, rows: NDArray[np.int64], z: Gaussian, random: Gaussian, seed: int
) -> tuple[Section, dict[str, NDArray[Any]]]:
    """Length, level and generality. `z` embeds the whole pool; `rows` is its level-balanced sample, `random` embeds
    random word strings of the lengths of `rows`. Also returns the table behind the plots.
    """
    u_all, length_all = mean_logvar(z), word_counts(pool.texts)
    u, length, level, u_random = u_all[rows], length_all[rows], pool.level[rows], mean_logvar(random)
    section: Section = {
        "captions": len(rows),
        "length_spearman": spearman(length, u),
        "length_spearman_random_words": spearman(length, u_random),
        "length_difference": spearman_difference(length, u, u_random, seed=seed)._asdict(),
        "length_spearman_trace": spearman(length, trace(z)[rows]),
        **_level_section(level, u, u_random, length),
        **_generality_section(pool, u_all, length_all, seed),
    }
    return section, {"u": u, "u_random": u_random, "length": length, "level": level}


def _level_section(level: NDArray[np.int64], u: Floats, u_random: Floats, length: NDArray[np.int64]) -> Section:
    known = level >= 0
    level, u, u_random, length = level[known], u[known], u_random[known], length[known]
    section: Section = {
        # Each exact length is held fixed, so nothing that is a function of length can pass.
        "level_partial": partial_within(level, u, length),
        "level_partial_random_words": partial_within(level, u_random, length),
        "level_partial_monotone": partial_spearman(level, u, length),  # the usual partial correlation
        "by_level": by_level(level, u),
        "by_level_matched": by_level_matched(level, u, length)._asdict(),
    }
    return section if known.any() else dict.fromkeys(section, UNKNOWN_LEVELS)


def _generality_section(pool: Pool, u: Floats, length: NDArray[np.int64], seed: int) -> Section:
    known = [own[pool.level[own] >= 0] for own in pool.of_clip]
    rows = np.concatenate(known or [np.zeros(0, dtype=np.int64)])
    clip = np.repeat(np.arange(len(known)), [len(own) for own in known])
    rates, pairs, outcomes, weights = _wordy_pairs(pool.level[rows], u[rows], length[rows], clip)
    if not len(rates):
        reason = "no clip has a more general caption with more words than a more specific one"
        return {"wordy_general_rate": reason, "wordy_general_interval": reason}
    # clips share captions and so pairs: each distinct pair is drawn once, with the weight of all clips that have it
    _, first, number = np.unique(rows[pairs], axis=0, return_index=True, return_inverse=True)
    weight = np.bincount(number.reshape(-1), weights=weights)
    interval = bootstrap_weighted(outcomes[first], weight, seed=seed)._replace(value=float(rates.mean()))
    return {
        "wordy_general_pairs": len(first),
        "wordy_general_rate": interval.value,
        "wordy_general_interval": interval._asdict(),
    }


def risk_section(
    ranks: TwoWay, audio: Gaussian, text: Gaussian, length: NDArray[np.int64], seed: int
) -> tuple[Section, dict[str, RiskCoverage]]:
    """R@1 with the most uncertain half of the queries left out, against all of them; and the curves, by direction.

    `gain` is the difference with its bootstrap interval; `half_by_length` (text queries) leaves the shortest half out.
    """
    section: Section = {}
    curves = {}
    for name, result, z in (("t2a", ranks.t2a, text), ("a2t", ranks.a2t, audio)):
        hits, u = result.hits(1), mean_logvar(z)
        curve = curves[name] = risk_coverage(hits, u)
        row: Section = {"full": float(hits.mean()), "half": curve.at(HALF), "area": curve.area}
        row["gain"] = _half_gain(hits, u, seed)._asdict()
        if name == "t2a":
            row["half_by_length"] = risk_coverage(hits, -length).at(HALF)
        section[name] = row
    return section, curves


def _half_gain(hits: Floats, u: Floats, seed: int) -> Interval:
    """Bootstrap of (mean hit of the more certain half) - (mean hit of all), the halves held fixed."""
    threshold = np.median(u)
    weight = (u < threshold) + 0.5 * (u == threshold)
    return bootstrap((weight / weight.mean() - 1) * (hits - hits.mean()), seed=seed)


def mask_means(embedded: Embedded) -> list[float]:
    """Mean u unmasked, then at each mask level, over the same samples."""
    plain = mean_logvar(embedded.plain)[embedded.rows.numpy()]
    return [float(u.mean()) for u in (plain, *map(mean_logvar, embedded.masked))]


def mask_sweep(
    model: Any, data: Any, texts: Sequence[str], mask: MaskConfig, seed: int
) -> dict[str, dict[str, list[float]]]:
    """u against the share masked, one mask level at each of several ratios, on the first clips; texts one a clip.

    By modality: `ratio` (the share masked in truth), `mean`, `low` and `high` (quartiles) of u.
    """
    clips = range(min(SWEEP_CLIPS, len(data)))
    inputs = {"audio": data.features_batch(clips), "text": (texts[: len(clips)],)}
    embed: dict[str, Any] = {"audio": masked_sounds, "text": masked_texts}
    sweep: dict[str, dict[str, list[float]]] = {
        name: {key: [] for key in ("ratio", "mean", "low", "high")} for name in inputs
    }
    with evaluating(model):
        for ratio in watched(SWEEP, f"Masking {len(clips)} sounds and captions ever more", len(SWEEP)):
            once = MaskConfig(ratio=ratio, mode=mask.mode, audio_copies=1, text_copies=1)
            for name, curves in sweep.items():
                generator = torch_generator(seed, "mask sweep", name)
                (z,), share = embed[name](model, *inputs[name], once, generator)
                u = mean_logvar(z)
                values = (float(share.mean()), float(u.mean()), *np.quantile(u, [0.25, 0.75]).tolist())
                for key, value in zip(curves, values, strict=True):
                    curves[key].append(value)
    return sweep
