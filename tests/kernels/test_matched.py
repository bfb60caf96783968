"""Losses of matched rows against the formulas, also at variances where the plain formulas lose their digits."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prolap_kernels import Gaussian, hierarchical_inclusion_loss, inclusion_loss, inclusion_score, vib_loss
from prolap_kernels.backends.chunked import matched as chunked
from prolap_kernels.scores import CONVENTIONS
from tests.kernels.common import gaussian
from tests.tolerances import assert_same, largest

CONVENTION_NAMES = list(CONVENTIONS)
TERMS = 8 * 12
"""Roundings in float64: sums over up to 8 dimensions and rows, of scores of about 12 operations."""


def levels_of(tensors: tuple[torch.Tensor, ...]) -> list[Gaussian]:
    return [Gaussian(*tensors[i : i + 2]) for i in range(0, len(tensors), 2)]


@pytest.mark.parametrize("backend", ["chunked", "reference"])
@pytest.mark.parametrize("reduce_dims", ["sum", "mean", "none"])
@pytest.mark.parametrize("convention", CONVENTION_NAMES)
def test_gradcheck_of_the_chain(convention: str, reduce_dims: str, backend: str) -> None:
    valid = torch.tensor([[True, False, True], [True, True, False]])

    def loss(*tensors: torch.Tensor) -> torch.Tensor:
        return hierarchical_inclusion_loss(
            levels_of(tensors),
            scale=0.7,
            convention=convention,
            reduce_dims=reduce_dims,
            link_valid=valid,
            backend=backend,
        )

    tensors = [t for seed in range(3) for t in gaussian(3, 2, seed)]
    assert torch.autograd.gradcheck(loss, tensors)


@pytest.mark.parametrize("convention", CONVENTION_NAMES)
def test_gradcheck_of_the_score_also_where_variances_are_equal(convention: str) -> None:
    x, y = gaussian(4, 3, 1), gaussian(4, 3, 2)

    def score(mx: torch.Tensor, my: torch.Tensor, lx: torch.Tensor, ly: torch.Tensor) -> torch.Tensor:
        return inclusion_score(Gaussian(mx, lx), Gaussian(my, ly), convention=convention)

    assert torch.autograd.gradcheck(score, (x.mean, y.mean, x.logvar, y.logvar))
    # at lx = ly the form switches sides: its derivative there is that of the smooth function
    assert torch.autograd.gradcheck(score, (x.mean, y.mean, x.logvar, x.logvar.detach().clone().requires_grad_()))


@pytest.mark.parametrize("convention", CONVENTION_NAMES)
def test_gradcheck_of_vib(convention: str) -> None:
    assert torch.autograd.gradcheck(
        lambda m, lv: vib_loss(Gaussian(m, lv), convention=convention), tuple(gaussian(4, 3))
    )


def test_losses_are_what_their_docstrings_say() -> None:
    x, y, z = (gaussian(4, 3, seed) for seed in range(3))
    first, second = inclusion_score(x, y), inclusion_score(y, z)
    expected = -torch.nn.functional.logsigmoid(2 * first).mean()
    assert_same(inclusion_loss(x, y, scale=2.0), expected, terms=TERMS)
    mean = -torch.nn.functional.logsigmoid(2 * first / 3).mean()
    assert_same(inclusion_loss(x, y, scale=2.0, reduce_dims="mean"), mean, terms=TERMS)
    both = -torch.nn.functional.logsigmoid(torch.cat([first, second])).mean()
    assert_same(hierarchical_inclusion_loss([x, y, z]), both, terms=TERMS)


def test_parity_with_the_public_prolip_formulas() -> None:
    """log sigmoid per dimension with c = 1000, kappa = 1, rho = exp(-10); VIB on l/2."""
    x, y = gaussian(5, 8, 1), gaussian(5, 8, 2)
    lx, ly, vx, vy = x.logvar, y.logvar, x.logvar.exp(), y.logvar.exp()
    h = (ly - lx) + 0.5 * torch.log((2 * vx + vy) / (vx + 2 * vy))
    h = h + math.exp(-10) * (x.mean - y.mean) ** 2 * (1 / (vx + 2 * vy) - 1 / (2 * vx + vy)) * -1
    want = -torch.nn.functional.logsigmoid(1000 * h).mean()
    got = inclusion_loss(x, y, scale=1000.0, convention="prolip", reduce_dims="none")
    # logits of size 1000 h, whose formula cancels; each is known to its rounding
    assert_same(got, want, terms=TERMS, scale=1000 * largest(h))
    vib = -0.5 * (1 + lx / 2 - x.mean**2 - (lx / 2).exp()).mean()
    assert_same(vib_loss(x, convention="prolip"), vib, terms=TERMS)
    exact = torch.distributions.kl_divergence(
        torch.distributions.Normal(x.mean, x.std), torch.distributions.Normal(torch.zeros(()), torch.ones(()))
    ).mean()
    assert_same(vib_loss(x), exact, terms=TERMS)


def inclusion_summands(x: Gaussian, y: Gaussian, kappa: float, rho: float) -> torch.Tensor:
    """kappa t, the logarithm and the quadratic term of h with t = ly - lx, in ratios of u = exp(-|t|): accurate near t = 0."""
    t = y.logvar - x.logvar
    u, complement = (-t.abs()).exp(), -(-t.abs()).expm1()
    logarithm = 0.5 * torch.log1p(-complement / (2 + u))
    quadratic = rho * (x.mean - y.mean).square() * torch.exp(-torch.maximum(x.logvar, y.logvar)) * complement
    return torch.stack([kappa * t, t.sign() * logarithm, t.sign() * quadratic / ((1 + 2 * u) * (2 + u))])


@settings(deadline=None, max_examples=150)
@given(
    st.floats(-30, 20), st.floats(-30, 20), st.floats(-3, 3), st.floats(-3, 3), st.sampled_from(CONVENTION_NAMES),
    st.sampled_from([0.0, 1e-6, 1e-3, 1.0]),
)  # fmt: skip
def test_float32_error_and_antisymmetry(
    lx: float, ly: float, mx: float, my: float, convention: str, near: float
) -> None:
    """At most 1e-6 times the sum of the terms' sizes, also for nearly equal variances; H(x in y) = -H(y in x) bit for bit."""
    ly = lx + near * (ly - lx)
    x, y = (Gaussian(torch.tensor([[m]]), torch.tensor([[lv]])) for m, lv in ((mx, lx), (my, ly)))
    got = inclusion_score(x, y, convention=convention)
    assert torch.equal(got, -inclusion_score(y, x, convention=convention))
    kappa, rho = CONVENTIONS[convention]
    a, b = (Gaussian(z.mean.double(), z.logvar.double()) for z in (x, y))
    summands = inclusion_summands(a, b, kappa, rho)
    size = summands.abs().sum()
    assert (got.double() - summands.sum()).abs() <= 1e-6 * size + torch.finfo(torch.float32).tiny


@pytest.mark.parametrize("backend", ["chunked", "triton"])
@pytest.mark.parametrize(
    ("lx", "ly"), [(-200.0, -200.0), (-200.0, -199.0), (-100.0, -60.0), (-60.0, -200.0), (200.0, -200.0)]
)
def test_variances_that_float32_cannot_hold(lx: float, ly: float, backend: str) -> None:
    """Right without a distance of the means or with a log-variance of -60 or more, finite otherwise, gradients too."""
    for distance in (0.0, 1.0):
        x = Gaussian(torch.full((1, 2), distance).requires_grad_(), torch.full((1, 2), lx).requires_grad_())
        y = Gaussian(torch.zeros(1, 2).requires_grad_(), torch.full((1, 2), ly).requires_grad_())
        got = inclusion_score(x, y, backend=backend)
        grads = torch.autograd.grad(got.sum(), [*x, *y])
        assert all(t.isfinite().all() for t in (got, *grads))
        if lx == ly or distance == 0 or max(lx, ly) >= -60:
            exact = inclusion_score(*(Gaussian(z.mean.double(), z.logvar.double()) for z in (x, y)))
            torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("backend", ["chunked", "triton", "reference"])
@pytest.mark.parametrize("rows", [3, 3000])
def test_mean_and_logvar_of_different_dtypes(rows: int, backend: str) -> None:
    """Also at a size from which programs are compiled, and levels whose log-variances differ in dtype."""
    rows = 3 if backend == "triton" else rows
    means = [gaussian(rows, 200, seed, torch.float32).mean.detach() for seed in range(2)]
    logvars = [0.5 * m.double() - 1 for m in means[:1]] + [0.5 * m - 1 for m in means[1:]]
    mixed = [Gaussian(m.requires_grad_(), v.requires_grad_()) for m, v in zip(means, logvars, strict=True)]
    exact = [Gaussian(*(t.detach().double().requires_grad_() for t in z)) for z in mixed]
    results = []
    for levels, name in ((mixed, backend), (exact, "chunked")):
        loss = hierarchical_inclusion_loss(levels, scale=0.1, backend=name) + vib_loss(levels[0], backend=name)
        results.append([loss, *torch.autograd.grad(loss, [t for z in levels for t in z])])
    for got, truth in zip(*results, strict=True):
        torch.testing.assert_close(got.double(), truth, rtol=1e-5, atol=1e-5 * float(truth.detach().abs().max()))


@pytest.mark.parametrize("logvar", [-30.0, -22.0, 0.0, 20.0])
def test_gradients_at_extreme_variances_are_those_of_float64(logvar: float) -> None:
    x, y = gaussian(6, 4, 1, torch.float32, logvar), gaussian(6, 4, 2, torch.float32, logvar)
    wide = [t.detach().double().requires_grad_() for t in (*x, *y)]
    inclusion_score(x, y).sum().backward()
    inclusion_score(Gaussian(*wide[:2]), Gaussian(*wide[2:])).sum().backward()
    for got, want in zip((*x, *y), wide, strict=True):
        assert (want.grad != 0).all()
        # each entry is a sum of 6 scores' gradients of about 12 operations
        assert_same(got.grad, want.grad, terms=12)


def test_the_stable_form_is_the_plain_formula() -> None:
    tensors = [t for seed in range(4) for t in gaussian(5, 3, seed)]
    for reduce_dims in ("sum", "mean", "none"):
        options = {"scale": 0.3, "convention": "prolip", "reduce_dims": reduce_dims}
        got = hierarchical_inclusion_loss(levels_of(tensors), **options, backend="chunked")
        want = hierarchical_inclusion_loss(levels_of(tensors), **options, backend="reference")
        assert_same(got, want, terms=TERMS)


@pytest.mark.parametrize("rows", [1, 3, 4096])
def test_row_blocks_change_nothing(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = gaussian(7, 3, 1), gaussian(7, 3, 2)
    want = torch.autograd.grad(inclusion_loss(x, y), [*x, *y])
    monkeypatch.setitem(chunked.CELLS, "cpu", rows * 3)
    for a, b in zip(torch.autograd.grad(inclusion_loss(x, y), [*x, *y]), want, strict=True):
        assert torch.equal(a, b)


def test_an_invalid_link_adds_nothing_even_if_it_holds_nan() -> None:
    x, y = gaussian(3, 2, 1), gaussian(3, 2, 2)
    want = inclusion_loss(x.rows(slice(0, 2)), y.rows(slice(0, 2)))
    with torch.no_grad():
        y.logvar[2] = float("nan")
    got = hierarchical_inclusion_loss([x, y], link_valid=torch.tensor([[True, True, False]]))
    assert_same(got, want, terms=TERMS)
    got.backward()
    assert all((t.grad[2] == 0).all() for t in (*x, *y))
    assert inclusion_loss(x, y).isnan()


def test_no_valid_link_and_no_rows_are_zero() -> None:
    x, y = gaussian(3, 2, 1), gaussian(3, 2, 2)
    loss = hierarchical_inclusion_loss([x, y], link_valid=torch.zeros(1, 3, dtype=torch.bool))
    loss.backward()
    assert loss == 0
    assert (x.logvar.grad == 0).all()
    empty = gaussian(0, 2)
    assert inclusion_loss(empty, empty) == 0
    assert vib_loss(empty) == 0


def test_a_wider_y_farther_away_has_the_larger_h() -> None:
    """The trap that the documentation warns of."""
    x = Gaussian(torch.zeros(1, 4), torch.full((1, 4), -2.0))
    near, far = (Gaussian(torch.full((1, 4), d), torch.zeros(1, 4)) for d in (0.1, 3.0))
    assert inclusion_score(x, far) > inclusion_score(x, near) > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: inclusion_loss(x, y.rows(slice(0, 2))), "y must have x's 3 rows .*got 2"),
        (
            lambda x, y: inclusion_score(x.mean, y),
            r"x must be a Gaussian\(mean, logvar\), because variances are used, got a torch.float64 tensor",
        ),
        (lambda x, y: hierarchical_inclusion_loss([x]), "levels must be a list of at least two Gaussians, got 1"),
        (
            lambda x, y: inclusion_loss(x, y, reduce_dims="max"),
            "reduce_dims must be one of 'sum', 'mean', 'none', got 'max'",
        ),
        (
            lambda x, y: inclusion_loss(x, y, scale=torch.tensor(1.0)),
            r"scale must be a constant number of at least 0, got a torch.float32 tensor of shape \[\]",
        ),
        (
            lambda x, y: hierarchical_inclusion_loss([x, y], link_valid=torch.ones(3, 1, dtype=torch.bool)),
            r"link_valid must be a bool tensor of shape \[1, 3\], got a torch.bool tensor of shape \[3, 1\]",
        ),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        call(gaussian(3, 2, 1), gaussian(3, 2, 2))
