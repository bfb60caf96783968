"""Seeded bootstrap intervals, rank and partial correlations.

An undefined value (a constant input, an empty class) is NaN and never an exception: the caller turns it into null
with a reason.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prolap.utils.environment import optional
from prolap.utils.seeding import numpy_generator

Array = NDArray[np.float64]
RESAMPLES = 2000
LEVEL = 0.95
_BLOCK = 4_000_000  # bootstrap weights held at a time
_ROUNDING = 1e-12  # what is left of a variance when nothing is left but rounding


class Interval(NamedTuple):
    """An estimate with the two ends of its percentile bootstrap interval, of level LEVEL."""

    value: float
    low: float
    high: float


_scipy_stats = partial(optional, "scipy.stats", "the evaluation needs scipy")


def _vector(name: str, values: ArrayLike) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}; want a vector.")
    return array


@lru_cache(maxsize=4)
def _counts(n: int, seed: int, resamples: int, block: int) -> NDArray[np.uint16]:
    """How often each of n samples is drawn in the resamples of one block. Kept, for many intervals share n and seed."""
    generator = numpy_generator(seed, "bootstrap", block)
    return generator.multinomial(n, np.full(n, 1.0 / n), size=resamples).astype(np.uint16)


def _resampled_means(columns: Array, *, seed: int, resamples: int) -> Array:
    """Means of columns [N, K] under `resamples` multinomial bootstrap weights: [resamples, K]."""
    n = len(columns)
    size = max(1, _BLOCK // n)
    parts = []
    for number, first in enumerate(range(0, resamples, size)):
        counts = _counts(n, seed, min(size, resamples - first), number)
        parts.append(counts.astype(np.float64) @ columns / n)
    return np.concatenate(parts)


def _interval(value: float, draws: Array) -> Interval:
    draws = draws[np.isfinite(draws)]
    if not len(draws) or not np.isfinite(value):
        return Interval(float(value), float("nan"), float("nan"))
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(value), float(low), float(high))


def bootstrap(values: ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Mean of `values` [N] with its percentile bootstrap interval (Efron and Tibshirani, 1993).

    Each of `resamples` resamples draws N values with replacement. `low` is the lower end of the two-sided interval,
    a 97.5 % lower bound, stricter than a one-sided 95 % bound.
    """
    array = _vector("values", values)
    if not len(array):
        return Interval(float("nan"), float("nan"), float("nan"))
    draws = _resampled_means(array[:, None], seed=seed, resamples=resamples)[:, 0]
    return _interval(float(array.mean()), draws)


def bootstrap_weighted(values: ArrayLike, weights: ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Weighted mean of `values` [N] with its percentile bootstrap interval; values are drawn with their weights."""
    array, weight = _vector("values", values), _vector("weights", weights)
    columns = np.stack([array * weight, weight], axis=1)
    means = _resampled_means(columns, seed=seed, resamples=resamples)
    return _interval(float(columns[:, 0].sum() / weight.sum()), means[:, 0] / means[:, 1])


def paired_bootstrap(first: ArrayLike, second: ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Mean of first - second, both [N] on the same samples: each resample takes the same samples from both."""
    a, b = _vector("first", first), _vector("second", second)
    if len(a) != len(b):
        raise ValueError(f"first has {len(a)} values and second {len(b)}; paired samples must be equally many.")
    return bootstrap(a - b, seed=seed, resamples=resamples)


def _pearson(x: Array, y: Array) -> float:
    x, y = x - x.mean(), y - y.mean()
    spread = float(np.sqrt((x @ x) * (y @ y)))
    # A spread at the level of rounding is a constant.
    if len(x) < 2 or np.sqrt(x @ x) < 1e-9 * len(x) or np.sqrt(y @ y) < 1e-9 * len(y):
        return float("nan")
    return float(np.clip((x @ y) / spread, -1.0, 1.0))


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's rank correlation with midranks; NaN if either side is constant."""
    a, b = _vector("x", x), _vector("y", y)
    if len(a) != len(b):
        raise ValueError(f"x has {len(a)} values and y {len(b)}; both must be equally many.")
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(_scipy_stats().spearmanr(a, b).statistic)


def spearman_difference(
    x: ArrayLike, y: ArrayLike, control: ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """spearman(x, y) - spearman(x, control), samples resampled together; ranks are taken once, on the whole sample."""
    rank = _scipy_stats().rankdata
    a, b, c = (_standard(rank(_vector(name, v))) for name, v in (("x", x), ("y", y), ("control", control)))
    if not len(a) == len(b) == len(c):
        raise ValueError(f"x, y and control have {len(a)}, {len(b)} and {len(c)} values; they must be equally many.")
    if not len(a):
        return Interval(float("nan"), float("nan"), float("nan"))
    columns = np.stack([a, b, c, a * a, b * b, c * c, a * b, a * c], axis=1)
    means = np.concatenate([columns.mean(0)[None], _resampled_means(columns, seed=seed, resamples=resamples)])
    ma, mb, mc, aa, bb, cc, ab, ac = means.T
    with np.errstate(invalid="ignore", divide="ignore"):
        sa, sb, sc = (np.sqrt(np.maximum(s - m * m, 0.0)) for s, m in ((aa, ma), (bb, mb), (cc, mc)))
        difference = (ab - ma * mb) / (sa * sb) - (ac - ma * mc) / (sa * sc)
    return _interval(float(difference[0]), difference[1:])


def _standard(values: Array) -> Array:
    """Centred and scaled; a constant becomes zeros."""
    centred = values - values.mean() if len(values) else values
    spread = float(centred.std()) if len(values) else 0.0
    return centred / spread if spread > 0 else centred * 0.0


def partial_spearman(x: ArrayLike, y: ArrayLike, z: ArrayLike) -> float:
    """(r_xy - r_xz r_yz) / sqrt((1 - r_xz^2)(1 - r_yz^2)) of Spearman's r: x with y at fixed z.

    Takes a monotone effect of z away. NaN where x or y is a monotone function of z: nothing is left.
    """
    xy, xz, yz = spearman(x, y), spearman(x, z), spearman(y, z)
    if np.isnan(xz) and not np.isnan(xy):
        return xy  # a constant z explains nothing
    left = (1 - xz * xz) * (1 - yz * yz)
    return float((xy - xz * yz) / np.sqrt(left)) if left > _ROUNDING else float("nan")


def partial_within(x: ArrayLike, y: ArrayLike, groups: ArrayLike) -> float:
    """Correlation of the ranks of x and y after each group's mean rank is taken away: "at fixed groups".

    The same as the partial rank correlation given a dummy variable per group, so any effect of the group, monotone or
    not, is gone. NaN where x or y does not vary inside any group.
    """
    rank = _scipy_stats().rankdata
    a, b = rank(_vector("x", x)), rank(_vector("y", y))
    _, code = np.unique(_vector("groups", groups), return_inverse=True)
    if not len(a) == len(b) == len(code):
        raise ValueError(f"x, y and groups have {len(a)}, {len(b)} and {len(code)} values; they must be equally many.")
    if len(a) < 2:
        return float("nan")
    size = np.bincount(code)
    return _pearson(*(v - (np.bincount(code, weights=v) / size)[code] for v in (a, b)))
