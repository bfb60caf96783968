from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from prolap.evaluation.statistics import (
    bootstrap,
    paired_bootstrap,
    partial_spearman,
    partial_within,
    spearman,
    spearman_difference,
)


def residual(values: np.ndarray, design: np.ndarray) -> np.ndarray:
    return values - design @ np.linalg.lstsq(design, values, rcond=None)[0]


def test_bootstrap_interval_is_seeded_and_as_wide_as_theory_says() -> None:
    values = np.random.default_rng(0).normal(2.0, 3.0, 900)
    first, again, other = bootstrap(values, seed=1), bootstrap(values, seed=1), bootstrap(values, seed=2)
    assert first == again
    assert first != other
    assert first.value == pytest.approx(values.mean())
    assert first.high - first.low == pytest.approx(2 * 1.96 * values.std() / 30, rel=0.08)
    assert first.low < first.value < first.high


def test_bootstrap_in_blocks_is_as_good(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random(50)
    whole = bootstrap(values)
    monkeypatch.setattr("prolap.evaluation.statistics._BLOCK", 7000)
    parts = bootstrap(values)
    assert parts == pytest.approx(whole, rel=0.03)
    assert parts.low != whole.low


def test_bootstrap_of_nothing_is_nan_and_of_a_constant_is_the_constant() -> None:
    assert all(np.isnan(bootstrap([])))
    assert bootstrap([0.25] * 8) == (0.25, 0.25, 0.25)


def test_paired_bootstrap_uses_the_pairing() -> None:
    rng = np.random.default_rng(3)
    base = rng.normal(0, 5, 400)
    shifted = base + 0.3 + rng.normal(0, 0.5, 400)
    paired = paired_bootstrap(shifted, base)
    assert 0.2 < paired.low < paired.value < paired.high < 0.4
    with pytest.raises(ValueError, match="equally many"):
        paired_bootstrap([1.0], [1.0, 2.0])


def test_spearman_has_midranks_and_is_nan_for_a_constant() -> None:
    x, y = [1, 2, 2, 4, 5], [3, 1, 1, 7, 9]
    assert spearman(x, y) == pytest.approx(np.corrcoef(stats.rankdata(x), stats.rankdata(y))[0, 1])
    assert np.isnan(spearman([1, 1, 1], [1, 2, 3]))


def test_partial_correlations_are_correlations_of_regression_residuals() -> None:
    rng = np.random.default_rng(5)
    z = rng.integers(3, 9, 300)
    x, y = z + rng.integers(0, 4, 300), -z + rng.normal(0, 2, 300)
    ranks = [stats.rankdata(v) for v in (x, y, z)]
    straight = np.stack([np.ones(300), ranks[2]], axis=1)
    dummies = (z[:, None] == np.unique(z)).astype(float)
    for found, design in ((partial_spearman(x, y, z), straight), (partial_within(x, y, z), dummies)):
        assert found == pytest.approx(np.corrcoef(residual(ranks[0], design), residual(ranks[1], design))[0, 1])
    assert abs(spearman(x, y)) > 3 * abs(partial_within(x, y, z))


def test_partials_find_nothing_in_a_function_of_the_covariate() -> None:
    rng = np.random.default_rng(6)
    length = rng.integers(3, 12, 500)
    level = np.clip(length // 3 + rng.integers(-1, 2, 500), 0, 3)
    assert np.isnan(partial_spearman(level, -length, length))
    assert np.isnan(partial_within(level, -length, length))
    assert np.isnan(partial_within(level, np.abs(length - 7.0), length)), "no monotone correction takes this away"
    assert partial_spearman(level, length * 0.0 + 1, length) != 0  # NaN: constant


def test_spearman_difference_is_the_difference_and_knows_noise_from_effect() -> None:
    rng = np.random.default_rng(7)
    length = rng.integers(3, 15, 400)
    real, random = -length + rng.normal(0, 3, 400), -length + rng.normal(0, 30, 400)
    found = spearman_difference(length, real, random)
    assert found.value == pytest.approx(spearman(length, real) - spearman(length, random))
    assert found.high < 0
    same = spearman_difference(length, -length + rng.normal(0, 1, 400), -length + rng.normal(0, 1, 400))
    assert same.low < 0 < same.high
    assert np.isnan(spearman_difference(length, real, np.ones(400)).value)
