"""Scores that are sums over dimensions: one source against its formula, in every place where it runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from prolap_kernels import OBJECTIVES, Gaussian, pairwise_loss, pairwise_score
from prolap_kernels.backends.chunked import elementwise
from prolap_kernels.reference import score_matrix
from prolap_kernels.scores import CONVENTIONS, ELEMENTWISE, Score
from tests.kernels.common import as_float64, pair_inputs, pair_loss, value_and_grads
from tests.kernels.elementwise_support import COMPILER, DEVICE, draw, gradients, matrix, names
from tests.tolerances import assert_all_same, assert_as_exact_as, assert_same, likely

TERMS = 28 * 16
"""Sums of up to 28 pairs, each of about 16 operations."""
PLACES = ["eager", pytest.param("compiled", marks=pytest.mark.skipif(not COMPILER, reason="no C++ compiler")), "triton"]


@pytest.fixture
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where sums are taken: `backend` for the call, and compilation at any size or at none."""
    compiles = request.param == "compiled"
    monkeypatch.setattr(elementwise, "COMPILE_CELLS", 0 if compiles else 1 << 60)
    monkeypatch.setattr(elementwise, "EAGER_CELLS", 300)
    return "triton" if request.param == "triton" else "chunked"


@pytest.mark.parametrize("place", PLACES, indirect=True)
@pytest.mark.parametrize("score", **names)
def test_no_further_from_float64_than_the_formula_in_float32(score: Score, place: str) -> None:
    """Value and gradients; at most twice the error of the literal N x M x D in float32, plus the rounding of a result."""
    x, y = (Gaussian(z.mean.requires_grad_(), z.logvar.requires_grad_()) for z in (draw(19, 37, 0), draw(13, 37, 1)))
    weight = torch.randn(19, 13, generator=torch.Generator().manual_seed(2))
    exact = [Gaussian(*as_float64(z)) for z in (x, y)]
    truth = score_matrix(score, *exact)
    mine, literal = matrix(score, x, y, place), score_matrix(score, x, y)
    got, eager, want = (
        [m.detach(), *gradients(m, weight.to(m), *sides)]
        for m, sides in ((mine, (x, y)), (literal, (x, y)), (truth, exact))
    )
    assert_as_exact_as(eager, got, want, terms=likely(19 + 13 + 37))


@pytest.mark.parametrize("score", **names)
def test_gradients_by_hand_are_the_formulas_derivatives(score: Score) -> None:
    """Variances alike, nearly alike and e^12 apart, in float64."""
    apart = torch.tensor([0.0, 1e-4, -1e-2, 0.5, -3.0, 12.0, -12.0], dtype=torch.float64)
    random = torch.Generator().manual_seed(0)
    lx = torch.randn(4, 7, generator=random, dtype=torch.float64)[:, None]
    ly = lx.transpose(0, 1)[:, :1] + apart
    mx, my = (torch.randn(shape, generator=random, dtype=torch.float64) for shape in ((4, 1, 7), (1, 1, 7)))
    inputs = [t.clone().requires_grad_() for t in (mx, lx, my, ly)]
    function = score.elementwise
    assert function is not None
    value = score.formula(Gaussian(*inputs[:2]), Gaussian(*inputs[2:]))
    ones = torch.ones_like(value)
    want = torch.autograd.grad(value, inputs, ones, allow_unused=True, materialize_grads=True)
    parts = [function.parts_x(mx * function.mean_scale, lx), function.parts_y(my * function.mean_scale, ly)]
    six = [*(p + p[:1] * (3 - len(p)) for p in parts)]
    flat = [t for side in six for t in side]
    found = []
    for gradient, linear in ((function.gradient_x, function.logvar_x), (function.gradient_y, function.logvar_y)):
        by_mean, by_logvar = gradient(*flat)
        found += [by_mean * function.mean_scale, by_logvar + linear]
    for by, w in zip(found, want, strict=True):
        assert_same((by * ones).sum_to_size(w.shape), w, terms=TERMS)
    plain = function.value(*flat) + function.logvar_x * lx + function.logvar_y * ly
    assert_same(plain, value, terms=TERMS)


@pytest.mark.parametrize("place", PLACES, indirect=True)
@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize(
    ("low", "high", "apart"),
    [(-30, 20, None), (-11, -9, None), (-10, -10, 1e-3), (-30, -30, 1e-5), (20, 20, 1e-4), (-25, 5, 1e-2)],
)
def test_inclusion_errs_by_a_millionth_of_its_terms(
    place: str, convention: str, low: int, high: int, apart: float | None
) -> None:
    """At most 1e-6 sum_d (|kappa t| + |log term| + |quadratic|), though the sum over d cancels; variances nearly equal too."""
    random = torch.Generator().manual_seed(0)
    n, m, d = 6, 5, 256
    lx = low + (high - low) * torch.rand(n, d, generator=random)
    near = lx[:1] + (apart or 0) * torch.randn(m, d, generator=random)
    ly = low + (high - low) * torch.rand(m, d, generator=random) if apart is None else near
    x, y = (Gaussian(torch.randn(len(t), d, generator=random) * 0.05, t) for t in (lx, ly))
    kappa, rho = CONVENTIONS[convention]
    mx, lx, my, ly = (t.double() for t in (x.mean[:, None], x.logvar[:, None], y.mean[None], y.logvar[None]))
    t, vx, vy = ly - lx, lx.exp(), ly.exp()
    u = torch.exp(-t.abs())
    log_term = -t.sign() * torch.atanh(
        -torch.expm1(-t.abs()) / (3 * (1 + u))
    )  # log1p of the ratio, without its rounding
    quadratic = rho * (mx - my) ** 2 * (vy * -torch.expm1(-t)) / ((vx + 2 * vy) * (2 * vx + vy))
    truth = (kappa * t + log_term + quadratic).sum(-1)
    size = ((kappa * t).abs() + log_term.abs() + quadratic.abs()).sum(-1)
    name = "inclusion" if convention == "exact" else "inclusion/prolip"
    score = next(s for s in ELEMENTWISE if s.name == name)
    error = (matrix(score, x, y, place).double() - truth).abs()
    assert (error <= 1e-6 * size).all(), float((error / size).max())


@pytest.mark.parametrize("place", PLACES, indirect=True)
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_inclusion_is_antisymmetric_to_the_last_bit(
    place: str, convention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(elementwise.MATRIX_CELLS, "cpu", 10 * (2 * elementwise.PARTS * 21 + 10))  # blocks of 10 rows
    x, y = draw(17, 21, 0, -10, 3), draw(23, 21, 1, -10, 3)
    score = ELEMENTWISE[0] if convention == "exact" else ELEMENTWISE[1]
    there, back = matrix(score, x, y, place), matrix(score, y, x, place)
    assert torch.equal(there, -back.T)
    assert torch.equal(matrix(score, x, x, place).diagonal(), torch.zeros(17))


@pytest.mark.parametrize("place", ["triton"], indirect=True)
@pytest.mark.parametrize("score", **names)
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("case", ["several positives", "ignored"])
def test_losses_are_those_of_the_reference(score: Score, objective: str, case: str, place: str) -> None:
    """float32 against float64; no more than eager torch errs, twice, and the rounding of what is summed: the gradient by the
    scale is a sum of g s that cancels."""
    inputs = [t.detach().to(DEVICE).requires_grad_() for t in pair_inputs(dtype=torch.float32)]
    want = value_and_grads(pair_loss(score.name, objective, case, backend="reference"), as_float64(inputs))
    eager = value_and_grads(pair_loss(score.name, objective, case, backend="reference"), inputs)
    got = value_and_grads(pair_loss(score.name, objective, case, backend=place), inputs)
    summed = [float(t.norm()) for t in want]
    x, y = Gaussian(*as_float64(inputs[:2])), Gaussian(*as_float64(inputs[2:4]))
    summed[5] = max(summed[5], float(score_matrix(score, x, y).detach().abs().mean(0).sum()))
    assert_as_exact_as(eager, got, want, terms=likely(5 + 4 + 3), scales=summed)


@pytest.mark.parametrize("place", ["eager", "triton"], indirect=True)
def test_every_option_of_a_loss_works_on_a_tile(place: str) -> None:
    """Reductions, negatives only, statistics, 16-bit means."""
    x, y = (Gaussian(*(t.to(DEVICE).requires_grad_() for t in draw(6, 5, k))) for k in (0, 1))
    options = {"score": "inclusion", "scale": 0.7, "bias": -0.3}
    for extra in ({"negatives_only": True}, {"reduction": "pairs"}, {"reduction": "none"}, {"reduction": "sum"}):
        exact = [Gaussian(*as_float64(z)) for z in (x, y)]
        found = []
        for sides, backend in (((x, y), place), ((x, y), "reference"), (exact, "reference")):
            value = pairwise_loss(*sides, backend=backend, **options, **extra).square().sum()
            found.append([value.detach(), *torch.autograd.grad(value, [*sides[0], *sides[1]])])
        assert_as_exact_as(found[1], found[0], found[2], terms=likely(6 + 6 + 5))
    seen = [pairwise_loss(x, y, backend=backend, stats=True, **options)[1] for backend in (place, "reference")]
    assert_all_same(*seen, terms=6 * 6 + 5)
    half = [Gaussian(z.mean.detach().bfloat16().requires_grad_(), z.logvar) for z in (x, y)]
    wide = [Gaussian(z.mean.detach().float().requires_grad_(), z.logvar) for z in half]
    losses = [pairwise_loss(*sides, backend=place, **options) for sides in (half, wide)]
    assert_same(*losses, terms=1)
    mine, theirs = (torch.autograd.grad(v, s[0].mean)[0] for v, s in zip(losses, (half, wide), strict=True))
    assert mine.dtype == torch.bfloat16
    assert_same(mine, theirs.bfloat16(), terms=1)


@pytest.mark.parametrize("place", ["eager", "triton"], indirect=True)
def test_what_padding_holds_reaches_nothing(place: str) -> None:
    x, y = draw(5, 4, 0), draw(4, 4, 1)
    ids = torch.tensor([0, 1, 2, 1, 0]), torch.tensor([0, 1, 5, 2])
    broken = torch.full((2, 4), float("nan"))

    def run(padded: bool) -> list[Tensor]:
        sides, row_ids = [], []
        for z, i in zip((x, y), ids, strict=True):
            extra = [broken, broken] if padded else [broken[:0], broken[:0]]
            sides.append(
                Gaussian(*(torch.cat([t, e]).to(DEVICE).requires_grad_() for t, e in zip(z, extra, strict=True)))
            )
            row_ids.append(torch.cat([i, torch.full((len(extra[0]),), -1)]).to(DEVICE))
        loss = pairwise_loss(*sides, score="kl", x_id=row_ids[0], y_id=row_ids[1], backend=place)
        return [loss, *torch.autograd.grad(loss, [*sides[0], *sides[1]])]

    plain, padded = run(False), run(True)
    assert_same(padded[0], plain[0], terms=5 + 4 + 4)
    for a, b in zip(padded[1:], plain[1:], strict=True):
        assert_same(a[: len(b)], b, terms=5 + 4 + 4)
        assert (a[len(b) :] == 0).all()


def test_a_frozen_side_costs_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    gradients = elementwise.block_gradients

    def counted(*arguments: Any) -> tuple[Tensor, Tensor]:
        asked.append(arguments[-1])
        return gradients(*arguments)

    monkeypatch.setattr(elementwise, "block_gradients", counted)
    x, y = draw(5, 4, 0), draw(4, 4, 1)
    y.logvar.requires_grad_()
    pairwise_loss(x, y, score="inclusion").backward()
    pairwise_score(x, y, score="inclusion").sum().backward()
    assert asked == ["y", "y"]
    pairwise_loss(x, Gaussian(*(t.detach() for t in y)), score="inclusion")
    assert asked == ["y", "y"]
