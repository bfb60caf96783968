"""Every formula against numerical integration, every lift against its formula."""

from __future__ import annotations

import math

import pytest
import torch

from prolap_kernels import SCORES, Gaussian, pairwise_score
from prolap_kernels.backends.chunked import elementwise
from prolap_kernels.reference import score_matrix
from prolap_kernels.scores import BILINEAR, CONVENTIONS, find_score
from tests.kernels.common import gaussian
from tests.tolerances import assert_same

TERMS = 200
"""Roundings in float64: sums over up to 9 dimensions and 6 + 7 rows, of formulas of about 10 operations; the trapezoidal rule's
own error on GRID is smaller for densities that are smooth and vanish at both ends."""
GRID = torch.linspace(-60, 60, 240_001, dtype=torch.float64)
X = Gaussian(torch.tensor([[0.3]], dtype=torch.float64), torch.tensor([[-0.4]], dtype=torch.float64))
Y = Gaussian(torch.tensor([[-0.9]], dtype=torch.float64), torch.tensor([[0.7]], dtype=torch.float64))


def density(z: Gaussian) -> torch.Tensor:
    return torch.exp(-0.5 * (GRID - z.mean) ** 2 / z.var)[0] / (2 * math.pi * z.var[0]).sqrt()


def integral(values: torch.Tensor) -> float:
    return float(torch.trapezoid(values, GRID))


def value(name: str) -> float:
    return float(score_matrix(SCORES[name], X, Y))


def test_inclusion_is_the_log_ratio_of_integrals() -> None:
    p, q = density(X), density(Y)
    assert value("inclusion") == pytest.approx(math.log(integral(p * p * q)) - math.log(integral(p * q * q)), rel=1e-10)


def test_containment_is_log_p2q_up_to_a_constant() -> None:
    p, q = density(X), density(Y)
    assert value("containment") == pytest.approx(math.log(integral(p * p * q)) + math.log(2 * math.pi), rel=1e-10)


def test_kl_jeffreys_bhattacharyya_and_elk_are_their_integrals() -> None:
    p, q = density(X), density(Y)
    tiny = 1e-300
    kl_pq = integral(p * ((p + tiny).log() - (q + tiny).log()))
    kl_qp = integral(q * ((q + tiny).log() - (p + tiny).log()))
    assert value("kl") == pytest.approx(-kl_pq, rel=1e-9)
    assert value("jeffreys") == pytest.approx(-kl_pq - kl_qp, rel=1e-9)
    assert value("bhattacharyya") == pytest.approx(math.log(integral((p * q).sqrt())), rel=1e-10)
    assert value("elk") == pytest.approx(math.log(integral(p * q)), rel=1e-10)


def test_csd_distance_is_the_expected_squared_distance_and_csd_half_of_it() -> None:
    x, y = gaussian(6, 4, 1), gaussian(7, 4, 2)
    draws = torch.Generator().manual_seed(0)
    count = 4000
    a = torch.stack([x.sample(draws) for _ in range(count)])
    b = torch.stack([y.sample(draws) for _ in range(count)])
    sampled = ((a[:, :, None] - b[:, None]) ** 2).sum(-1)
    error = sampled.std(0) / math.sqrt(count)
    distance = score_matrix(SCORES["csd_distance"], x, y)
    assert ((-distance - sampled.mean(0)).abs() < 6 * error).all()
    assert_same(score_matrix(SCORES["csd"], x, y), 1 + distance / 2, terms=TERMS)  # unit means


def test_wasserstein2_of_one_dimension_moves_quantiles() -> None:
    levels = torch.linspace(1e-6, 1 - 1e-6, 2_000_001, dtype=torch.float64)
    normal = torch.special.ndtri(levels)
    gap = (X.mean + X.std * normal) - (Y.mean + Y.std * normal)
    assert value("wasserstein2") == pytest.approx(-float(torch.trapezoid(gap[0] ** 2, levels)), rel=1e-3)


@pytest.mark.parametrize("score", BILINEAR, ids=lambda s: s.name)
@pytest.mark.parametrize("shape", [(5, 4, 3), (1, 7, 1), (6, 1, 9), (0, 3, 2), (3, 0, 2)])
def test_a_lift_is_its_formula(score, shape) -> None:
    n, m, d = shape
    x, y = gaussian(n, d, 1), gaussian(m, d, 2)
    assert_same(pairwise_score(x, y, score=score.name), score_matrix(score, x, y), terms=TERMS)


@pytest.mark.parametrize("name", SCORES)
def test_pairwise_score_in_blocks_and_its_gradient_are_the_formula(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elementwise, "EAGER_CELLS", 12)  # several pieces
    monkeypatch.setitem(elementwise.MATRIX_CELLS, "cpu", 150)  # of several blocks
    x, y = gaussian(5, 3, 1), gaussian(4, 3, 2)
    score, _, convention = name.partition("/")
    got = pairwise_score(x, y, score=score, **({"convention": convention} if convention else {}))
    want = score_matrix(SCORES[name], x, y)
    assert_same(got, want, terms=TERMS)
    weight = torch.randn(5, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    grads = [
        torch.autograd.grad((matrix * weight).sum(), [*x, *y], allow_unused=True, materialize_grads=True)
        for matrix in (got, want)
    ]
    for a, b in zip(*grads, strict=True):
        assert_same(a, b, terms=TERMS)


def test_the_prolip_convention_is_kappa_one_and_rho_exp_minus_ten() -> None:
    assert CONVENTIONS["prolip"] == (1.0, math.exp(-10))
    x, y = gaussian(3, 4, 1), gaussian(3, 4, 2)
    vx, vy = x.var, y.var
    log_part = 0.5 * ((2 * vx + vy) / (vx + 2 * vy)).log()
    quadratic = (x.mean - y.mean) ** 2 * (vy - vx) / ((vx + 2 * vy) * (2 * vx + vy))
    for name, kappa, rho in (("inclusion", 0.5, 1.0), ("inclusion/prolip", 1.0, math.exp(-10))):
        want = kappa * (y.logvar - x.logvar) + log_part + rho * quadratic
        assert_same(SCORES[name].formula(x, y), want, terms=TERMS)


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(ValueError, match="score must be one of .* got 'cds'; did you mean 'csd'"):
        find_score("cds")
    with pytest.raises(
        ValueError, match="convention must be one of 'exact', 'prolip', got 'prolap'; did you mean 'prolip'"
    ):
        find_score("inclusion", convention="prolap")
    with pytest.raises(TypeError, match="'convention' belongs to 'inclusion'"):
        find_score("csd", convention="prolip")
    with pytest.raises(TypeError, match="takes no option 'temperature'"):
        find_score("csd", temperature="1")
