"""Each section of metrics.json from Gaussians: plain dictionaries of fractions, with the intervals the claims need.

A section that cannot be computed is a string, the reason; `tidy` turns it into null and files the reason.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prolap.evaluation import uncertainty as u_
from prolap.evaluation.embed import Embedded
from prolap.evaluation.inclusion import inclusion_test
from prolap.evaluation.pool import Pool
from prolap.evaluation.retrieval import TwoWay, risk_coverage
from prolap.evaluation.statistics import Interval, bootstrap, paired_bootstrap, spearman
from prolap.evaluation.traversal import Traversal
from prolap_kernels import Gaussian

DETERMINISTIC = "the model is deterministic (score dot): its log-variances are not trained"
NO_BASELINE = "no baseline was given"
HALF = 0.5
CONTROL_PAIRS = 2_000_000  # of the control, at each mask level: all of them up to 1,414 samples

Section = dict[str, Any]


def retrieval_section(ranks: TwoWay, unseen: NDArray[np.bool_]) -> Section:
    """Both directions; `unseen_sources`: only clips of unseen source sets ask, and the gallery stays whole."""
    rest: Section | str = "no clip of the data set is marked as having unseen sources"
    return {**ranks.metrics(), "unseen_sources": ranks.metrics(unseen) if unseen.any() else rest}


def retrieval_comparison(model: TwoWay, baseline: TwoWay, seed: int) -> Section:
    """R@1 of the model minus the baseline's, each query with itself; `mean` averages both directions per clip.

    `mean.above_chance` is the model's own R@1 minus chance: two models at chance are equals too.
    """
    out: Section = {}
    by_clip, own = [], []
    for name in ("t2a", "a2t"):
        ours, theirs = getattr(model, name).hits(1), getattr(baseline, name).hits(1)
        clip = model.clip_of_caption if name == "t2a" else np.arange(len(ours))
        difference = np.bincount(clip, weights=ours - theirs) / np.bincount(clip)
        # Captions of one clip are resampled together.
        out[name] = {"r1": _interval(bootstrap(difference, seed=seed))}
        by_clip.append(difference)
        own.append(np.bincount(clip, weights=ours) / np.bincount(clip) - getattr(model, name).chance_r1)
    out["mean"] = {
        "r1": _interval(bootstrap((by_clip[0] + by_clip[1]) / 2, seed=seed)),
        "above_chance": _interval(bootstrap((own[0] + own[1]) / 2, seed=seed)),
    }
    return out


def risk_section(ranks: TwoWay, audio: Gaussian, text: Gaussian, length: NDArray[np.int64], seed: int) -> Section:
    """R@1 with the most uncertain half of the queries left out, against all of them.

    `gain` is the difference with its bootstrap interval; `half_by_length` (text queries) leaves the shortest half out.
    """
    out: Section = {}
    for name, result, z in (("t2a", ranks.t2a, text), ("a2t", ranks.a2t, audio)):
        hits, u = result.hits(1), u_.mean_logvar(z)
        curve = risk_coverage(hits, u)
        row: Section = {"full": float(hits.mean()), "half": curve.at(HALF), "area": curve.area}
        row["gain"] = _interval(_half_gain(hits, u, seed))
        if name == "t2a":
            row["half_by_length"] = risk_coverage(hits, -length).at(HALF)
        out[name] = row
    return out


def _half_gain(hits: NDArray[np.float64], u: NDArray[np.float64], seed: int) -> Interval:
    """Bootstrap of (mean hit of the more certain half) - (mean hit of all), the halves held fixed."""
    threshold = np.median(u)
    weight = (u < threshold) + 0.5 * (u == threshold)
    return bootstrap((weight / weight.mean() - 1) * (hits - hits.mean()), seed=seed)


def inclusion_section(model: Embedded, baseline: Embedded | None, seed: int) -> Section | str:
    """The inclusion test at mask level 1 under the schema's names, and at all levels under `levels`."""
    levels: list[Any] = []
    for index in range(len(model.masked)):
        x, m, kept = model.level(index)
        if len(kept) < 2:
            levels.append(f"mask level {index + 1} masks {len(kept)} samples; 2 are needed")
            continue
        same = (
            baseline is not None
            and len(baseline.masked) > index
            and len(baseline.share[index]) == len(model.share[index])
        )
        pair = baseline.level(index) if baseline is not None and same else None
        test = inclusion_test(x, m, baseline=None if pair is None else pair[:2], pairs=CONTROL_PAIRS, seed=seed)
        row = test.metrics()
        if pair is None:
            row["location_baseline"] = row["advantage"] = (
                NO_BASELINE if baseline is None else "the baseline's masks do not match"
            )
        levels.append(row)
    if not levels or isinstance(levels[0], str):
        return levels[0] if levels else "no masked copies were asked for"
    return {**levels[0], "levels": levels}


def mask_means(embedded: Embedded) -> list[float]:
    """Mean u unmasked, then at each mask level, over the same samples."""
    rows = embedded.rows.numpy()
    plain = u_.mean_logvar(embedded.plain)[rows]
    return [float(v.mean()) for v in (plain, *(u_.mean_logvar(m) for m in embedded.masked))]


def uncertainty_section(
    pool: Pool, rows: NDArray[np.int64], z: Gaussian, random: Gaussian, seed: int
) -> tuple[Section, Section]:
    """Length, level and generality. `z` embeds the whole pool; `rows` is its level-balanced sample, `random` embeds
    random word strings of the lengths of `rows`. Also returns the table behind the plots.
    """
    u_all, length_all = u_.mean_logvar(z), u_.word_counts(pool.texts)
    u, length, level, u_random = u_all[rows], length_all[rows], pool.level[rows], u_.mean_logvar(random)
    lengths = u_.length_test(length, u, u_random, seed=seed)
    known = level >= 0
    out: Section = {
        "captions": len(rows),
        "length_spearman": lengths.real,
        "length_spearman_random_words": lengths.random,
        "length_difference": _interval(lengths.difference),
        "length_spearman_trace": spearman(length, u_.trace(z)[rows]),
    }
    names = ("level_partial", "level_partial_random_words", "level_partial_monotone", "by_level", "by_level_matched")
    if known.any():
        out["level_partial"] = u_.level_partial(level[known], u[known], length[known])
        out["level_partial_random_words"] = u_.level_partial(level[known], u_random[known], length[known])
        out["level_partial_monotone"] = u_.level_partial_monotone(level[known], u[known], length[known])
        out["by_level"] = u_.by_level(level[known], u[known])
        out["by_level_matched"] = u_.by_level_matched(level[known], u[known], length[known])._asdict()
    else:
        out.update(dict.fromkeys(names, "no caption has a known level"))
    out.update(_generality(pool, u_all, length_all, seed))
    return out, {"u": u, "u_random": u_random, "length": length, "level": level}


def _generality(pool: Pool, u: NDArray[np.float64], length: NDArray[np.int64], seed: int) -> Section:
    places = np.concatenate([mine[pool.level[mine] >= 0] for mine in pool.of_clip] or [np.zeros(0, dtype=np.int64)])
    clip = np.repeat(np.arange(len(pool.of_clip)), [int((pool.level[mine] >= 0).sum()) for mine in pool.of_clip])
    rates = u_.wordy_general(pool.level[places], u[places], length[places], clip) if len(places) else np.zeros(0)
    if not len(rates):
        reason = "no clip has a more general caption with more words than a more specific one"
        return {"wordy_general_rate": reason, "wordy_general_interval": reason}
    interval = bootstrap(rates, seed=seed)
    return {"wordy_general_rate": interval.value, "wordy_general_interval": _interval(interval)}


def traversal_comparison(model: Traversal, baseline: Traversal | None, seed: int) -> Section:
    """Precision over chance, and that excess over the baseline's, both paired over the sounds."""
    excess = model.precision - model.chance
    out: Section = {"above_chance": _interval(bootstrap(excess, seed=seed))}
    if baseline is None:
        return {**out, "above_baseline": NO_BASELINE}
    return {
        **out,
        "above_baseline": _interval(paired_bootstrap(excess, baseline.precision - baseline.chance, seed=seed)),
    }


def _interval(interval: Interval) -> dict[str, float]:
    return interval._asdict()


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
            reasons[path] = "undefined: no samples, or no variation among them"
            return None
        return float(section)
    return int(section) if isinstance(section, np.integer) else section
