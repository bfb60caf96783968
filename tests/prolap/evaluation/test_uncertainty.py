from __future__ import annotations

import numpy as np
import pytest
import torch

from prolap.evaluation import uncertainty
from prolap.evaluation.captions import Pool, balanced, caption_pool, random_word_strings, word_counts
from prolap.evaluation.statistics import partial_spearman, partial_within, spearman, spearman_difference
from prolap_kernels import Gaussian


class Caption:
    def __init__(self, text: str, level: int, node: int) -> None:
        self.text, self.level, self.node = text, level, node


class Captions:
    """Clips with captions only."""

    def __init__(self, rows: list[list[Caption]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def captions(self, i: int) -> list[Caption]:
        return self.rows[i]


def made_captions(n: int = 600, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clip, level and length of captions that overlap in length between levels: specific ones are longer on average."""
    rng = np.random.default_rng(seed)
    level = rng.integers(0, 4, n)
    return np.arange(n) // 12, level, 4 + level + rng.integers(0, 7, n)


def test_uncertainty_and_trace_can_order_samples_oppositely() -> None:
    z = Gaussian(torch.zeros(2, 2), torch.tensor([[-1.0, -1.0], [-9.0, 3.0]]))
    assert uncertainty.mean_logvar(z).tolist() == [-1.0, -3.0]
    assert uncertainty.trace(z) == pytest.approx([2 * np.exp(-1), np.exp(-9) + np.exp(3)])


def test_random_words_keep_lengths_and_nothing_else() -> None:
    texts = ["a slow cello", "music", "a dog barks while a bell rings", ""]
    found = random_word_strings(texts, seed=1)
    assert word_counts(found).tolist() == word_counts(texts).tolist() == [3, 1, 7, 0]
    assert {w for t in found for w in t.split()} <= {w for t in texts for w in t.split()}
    assert found == random_word_strings(texts, seed=1) != random_word_strings(texts, seed=2)


def test_the_controls_expose_a_model_that_counts_words() -> None:
    clip, level, length = made_captions()
    rng = np.random.default_rng(1)
    counting, counting_random = (-length + rng.normal(0, 0.1, len(length)) for _ in range(2))
    assert spearman(length, counting) < -0.95, "the plain correlation looks splendid"
    assert spearman(length, counting_random) < -0.95
    difference = spearman_difference(length, counting, counting_random)
    assert difference.low < 0 < difference.high, "and random words do just as well"
    assert abs(partial_within(level, counting, length)) < 0.1
    assert uncertainty.wordy_general(level, counting, length, clip).mean() < 0.01


def test_a_model_that_reads_generality_passes() -> None:
    clip, level, length = made_captions()
    rng = np.random.default_rng(2)
    reading, noise = -level + rng.normal(0, 0.3, len(level)), rng.normal(0, 1, len(level))
    assert spearman(length, reading) < -0.2
    assert spearman_difference(length, reading, noise).high < 0
    assert partial_within(level, reading, length) < -0.8
    assert partial_spearman(level, reading, length) < -0.8
    assert uncertainty.wordy_general(level, reading, length, clip).mean() > 0.9


def test_wordy_general_counts_pairs_within_a_clip() -> None:
    level, length = [0, 3, 1, 0, 3], [5, 3, 4, 9, 2]
    u, clip = [1.0, 0.5, 0.5, 0.0, 2.0], [0, 0, 0, 1, 1]
    # Clip 0: (0 over 3) true, (0 over 1) true, (1 over 3) equal: 2.5 of 3. Clip 1: (0 over 3) false.
    assert uncertainty.wordy_general(level, u, length, clip).tolist() == [pytest.approx(2.5 / 3), 0.0]
    assert len(uncertainty.wordy_general([0, 1], [1, 0], [3, 3], [0, 0])) == 0, "equal lengths are no test"


def test_by_level_and_at_matched_length() -> None:
    level = np.repeat([0, 1, 2, 3], 30)
    length = np.concatenate(
        [np.tile([3, 4, 5], 10), np.tile([4, 5, 6], 10), np.tile([4, 5, 7], 10), np.tile([4, 5, 9], 10)]
    )
    counting = -length.astype(float)
    assert np.ptp(uncertainty.by_level(level, counting)) > 1.5, "longer levels look surer"
    found = uncertainty.by_level_matched(level, counting, length)
    assert found.lengths == [4, 5]
    assert found.mean == pytest.approx([-4.5] * 4), "and at matched length no level differs"
    assert uncertainty.by_level_matched(level, counting, level).lengths == []
    assert np.isnan(uncertainty.by_level([0, 1], [1.0, 2.0])[3])


def test_pool_holds_each_caption_once_and_keeps_every_node() -> None:
    rows = [
        [Caption("music", 0, 0), Caption("some music", 0, 0), Caption(f"clip {i}", 3, 10 + i), Caption("extra", -1, -1)]
        for i in range(40)
    ]
    pool = caption_pool(Captions(rows))
    assert len(pool.texts) == 43
    assert [pool.texts[i] for i in pool.of_clip[7]] == ["music", "some music", "extra", "clip 7"]
    assert len(pool.chained) == 42
    small = caption_pool(Captions(rows), limit=10, seed=1)
    assert len(small.texts) == 42, "one caption of each of the 42 nodes stays whatever the limit"
    assert set(small.node.tolist()) == {-1, 0, *range(10, 50)}
    assert all(small.level[places].max() == 3 for places in small.of_clip)
    middle = caption_pool(Captions([[Caption(f"w{i}", 3, i % 5) for i in range(50)]]), limit=20, seed=2)
    assert len(middle.texts) == 20
    assert set(middle.node.tolist()) == set(range(5))


def test_balanced_sample_bounds_every_level() -> None:
    pool = caption_pool(Captions([[Caption(f"l{k} {i}", k, k) for k in range(4) for i in range(3 if k == 0 else 40)]]))
    rows = balanced(pool, per_level=10, seed=3)
    assert np.bincount(pool.level[rows]).tolist() == [3, 10, 10, 10]
    assert len(set(rows.tolist())) == len(rows)


def test_a_pair_that_clips_share_is_drawn_once() -> None:
    texts = ["some long general words", "terse", "many more general words", "short"]
    pool = Pool(texts, np.array([0, 3, 0, 3]), np.arange(4), [np.array([0, 1])] * 99 + [np.array([2, 3])])
    section = uncertainty._generality_section(pool, np.array([1.0, 0.0, 0.0, 1.0]), word_counts(texts), seed=0)
    assert (section["wordy_general_pairs"], section["wordy_general_rate"]) == (2, 0.99)
    assert section["wordy_general_interval"] == {"value": 0.99, "low": 0.0, "high": 1.0}
