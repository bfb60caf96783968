from __future__ import annotations

import numpy as np
import pytest
import torch

from prolap.evaluation.inclusion import control, cosine, inclusion_test, location, negative_kl, neighbours
from prolap_kernels import Gaussian, inclusion_score, pairwise_score
from prolap_kernels.search import WORKSPACE


def gaussians(n: int, dim: int = 4, seed: int = 0, logvar: float = -3.0, spread: float = 0.5) -> Gaussian:
    generator = torch.Generator().manual_seed(seed)
    mean = torch.nn.functional.normalize(torch.randn(n, dim, generator=generator), dim=-1)
    return Gaussian(mean, logvar + spread * torch.randn(n, dim, generator=generator))


def near(x: Gaussian, noise: float, seed: int = 1, widen: float = 1.5) -> Gaussian:
    """Masked versions: the mean moved by noise, every variance wider."""
    generator = torch.Generator().manual_seed(seed)
    return Gaussian(x.mean + noise * torch.randn(x.mean.shape, generator=generator), x.logvar + widen)


def test_neighbours_are_the_nearest_in_uncertainty_without_oneself() -> None:
    masked = gaussians(60)
    u = masked.logvar.double().mean(-1).numpy()
    found = neighbours(masked).numpy()
    assert found.shape == (60, 20)
    for i in range(60):
        others = [j for j in range(60) if j != i]
        wanted = sorted(others, key=lambda j: abs(u[j] - u[i]))[:20]
        assert set(found[i].tolist()) == set(wanted)
    assert neighbours(gaussians(5)).shape == (5, 4)


def test_neighbours_of_equal_uncertainty_are_spread_and_seeded() -> None:
    masked = Gaussian(gaussians(200).mean, torch.zeros(200, 4))
    found = neighbours(masked, seed=3)
    assert not (found == torch.arange(200)[:, None]).any()
    assert torch.equal(found, neighbours(masked, seed=3))
    assert not torch.equal(found, neighbours(masked, seed=4))


def test_negative_kl_of_matched_rows_is_the_diagonal_of_the_score() -> None:
    x, y = gaussians(12), gaussians(12, seed=1)
    matrix = pairwise_score(Gaussian(*(v.double() for v in x)), Gaussian(*(v.double() for v in y)), score="kl")
    assert torch.allclose(negative_kl(x, y), matrix.diagonal(), rtol=1e-9)
    assert negative_kl(x, x).abs().max() == 0


def test_location_is_the_share_of_neighbours_beaten(monkeypatch: pytest.MonkeyPatch) -> None:
    x = gaussians(50)
    masked = near(x, 0.4)
    others = neighbours(masked)
    kl = pairwise_score(Gaussian(*(v.double() for v in x)), Gaussian(*(v.double() for v in masked)), score="kl").numpy()
    unit = torch.nn.functional.normalize
    cos = (unit(x.mean.double(), dim=-1) @ unit(masked.mean.double(), dim=-1).T).numpy()
    monkeypatch.setattr("prolap.evaluation.inclusion._ELEMENTS", 500)
    for similarity, matrix in ((negative_kl, kl), (cosine, cos)):
        brute = [np.mean([(matrix[i, i] > matrix[i, j]) for j in others[i].tolist()]) for i in range(50)]
        assert location(x, masked, others, similarity) == pytest.approx(brute)
    assert 0.5 < np.mean(location(x, masked, others)) < 1


def test_location_counts_ties_as_half() -> None:
    x = gaussians(30)
    same = Gaussian(torch.ones(30, 4) / 2, torch.zeros(30, 4))
    assert location(x, same, neighbours(same)).tolist() == [0.5] * 30
    assert cosine(same, same).tolist() == pytest.approx([1.0] * 30)


def test_control_is_the_mean_over_all_other_pairs_or_a_fair_sample_of_them() -> None:
    x, masked = gaussians(40, spread=1.0), gaussians(40, seed=5, logvar=-2.6, spread=1.0)
    positive = (pairwise_score(x, masked, score="inclusion") > 0).double()
    positive.fill_diagonal_(0)
    exact = float(positive.sum()) / (40 * 39)
    assert 0.2 < exact < 0.8
    assert control(x, masked) == (pytest.approx(exact), 40 * 39)
    found, pairs = control(x, masked, pairs=600, seed=1)
    assert pairs == 600
    assert found == pytest.approx(exact, abs=0.06)
    assert control(x, masked, pairs=600, seed=2)[0] != found


def test_the_exact_control_leaves_each_sample_out_once_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x, masked = gaussians(57, spread=1.0), gaussians(57, seed=5, logvar=-2.9, spread=1.0)
    whole = control(x, masked)
    for workspace in (1, 2000, 9000):
        monkeypatch.setitem(WORKSPACE, "cpu", workspace)
        assert control(x, masked) == whole == control(x, masked, pairs=57 * 56)
    few = x.rows(slice(12)), masked.rows(slice(12))
    assert control(*few) == (brute_control(*few), 12 * 11)


def brute_control(x: Gaussian, masked: Gaussian) -> float:
    """One pair at a time."""
    n = len(x.mean)
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    rows = [inclusion_score(x.rows(slice(i, i + 1)), masked.rows(slice(j, j + 1))) for i, j in pairs]
    return float((torch.cat(rows) > 0).double().mean())


def test_a_model_that_only_widens_has_direction_but_no_location() -> None:
    x, elsewhere = gaussians(300), gaussians(300, seed=7)
    lost = inclusion_test(x, Gaussian(elsewhere.mean, x.logvar + 2), baseline=(x, elsewhere))
    assert lost.direction == lost.control == 1.0, "direction alone says nothing: the control is as high"
    assert lost.location.low < 0.5 < lost.location.high
    assert not lost.passed


def test_a_model_that_knows_its_own_passes_if_its_baseline_knows_less() -> None:
    x = gaussians(300)
    masked = near(x, 0.1)
    blind = inclusion_test(x, masked, baseline=(x, gaussians(300, seed=8)))
    assert blind.passed
    assert blind.location.value > 0.95
    assert blind.location_baseline is not None
    assert blind.location_baseline.value == pytest.approx(0.5, abs=0.06)
    assert blind.metrics()["location"] == blind.location.value
    equal = inclusion_test(x, masked, baseline=(x, near(x, 0.01)))
    assert not equal.passed, "a baseline that locates better takes the claim away"
    assert not inclusion_test(x, masked).passed, "without a baseline the rule cannot be met"


def test_a_narrower_masked_version_has_the_wrong_direction() -> None:
    x = gaussians(100)
    found = inclusion_test(x, near(x, 0.05, widen=-1.0), baseline=(x, gaussians(100, seed=8)))
    assert found.direction == 0.0
    assert found.location.low > 0.5
    assert not found.passed


def test_shapes_must_match() -> None:
    with pytest.raises(ValueError, match="matched rows"):
        inclusion_test(gaussians(4), gaussians(5))
    with pytest.raises(ValueError, match="at least 2"):
        inclusion_test(gaussians(1), gaussians(1))
