"""Inclusion chains and VIB against float64 formulas, within 1e-6 of the sum of the absolute summands of each result."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from prolap_kernels import Gaussian
from prolap_kernels.backends.links import MEAN, NONE, SCORE, SUM, VIB, Link, pack, unpack
from prolap_kernels.backends.triton import matched as fused
from prolap_kernels.matched import _reference_rows
from tests.tolerances import assert_same

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EXACT, PROLIP = (0.5, 1.0), (1.0, 4.539992976248485e-05)
UNIT = 1e-6  # SPEC: float32 H errs by at most this much of the sum of its absolute summands
REDUCTIONS = [("sum", "loss"), ("mean", "loss"), ("none", "loss"), ("sum", "score")]
KINDS = {"sum": SUM, "mean": MEAN, "none": NONE}
NOTHING = torch.zeros(0, device=DEVICE)


def draw(levels: int, n: int, d: int, low: float, high: float, spread: float = 0.05) -> list[Gaussian]:
    source = torch.Generator().manual_seed(levels * 1009 + n * 31 + d)
    means = [torch.randn(n, d, generator=source) * spread for _ in range(levels)]
    logvars = [torch.rand(n, d, generator=source) * (high - low) + low for _ in range(levels)]
    return [Gaussian(m.to(DEVICE), v.to(DEVICE)) for m, v in zip(means, logvars, strict=True)]


def summands(x: Gaussian, y: Gaussian, kappa: float, rho: float) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of absolute summands per dimension: of h, and of its derivatives by a mean and by a log-variance."""
    t = y.logvar - x.logvar
    u = torch.exp(-t.abs())
    product = (1 + 2 * u) * (2 + u)
    root = torch.exp(-0.5 * torch.maximum(x.logvar, y.logvar))
    z = (x.mean - y.mean) * root
    h = kappa * t.abs() + 0.5 * torch.log((2 + u) / (1 + 2 * u)) + rho * z.square() * (1 - u) / product
    by_logvar = kappa + 0.75 + rho * z.square() * (2 + 11 * u + 11 * u * u + 2 * u**3) / product.square()
    return h, 2 * rho * z.abs() * root * (1 - u) / product, by_logvar


def links(levels: list[Gaussian], scale: float, form: tuple[float, float], reduce: str, kind: str) -> list[Link]:
    """The links of a chain, with flags of all its rows one link after another."""
    n, width = levels[0].mean.shape
    number = SCORE if kind == "score" else KINDS[reduce]
    chain = [Link(number, k, k + 1, 0, scale, *form, True, True) for k in range(len(levels) - 1)]
    return unpack(pack(chain), [n] * len(levels), width)


def run(
    levels: list[Gaussian], weight: Tensor, scale: float, form: tuple[float, float], reduce: str, kind: str
) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """sum_k weight_kn value_kn [N] and its gradients by the means and log-variances; links of weight 0 do not count."""
    n = len(levels[0].mean)
    rows, chain = [n] * len(levels), links(levels, scale, form, reduce, kind)
    mean, logvar = (torch.cat([z[i] for z in levels]) for i in (0, 1))
    results = fused.matched_rows(mean, logvar, (weight != 0).reshape(-1), rows, chain)
    grads = fused.matched_gradients(mean, logvar, results, NOTHING, weight, rows, chain, (True, True))
    return (weight * results[0]).sum(0), *(g.split(n) for g in grads)


def vib_rows(mean: Tensor, logvar: Tensor, halved: bool) -> tuple[Tensor, list[int], list[Link]]:
    """What the forward launch gives for a VIB alone."""
    rows = [len(mean)]
    vib = [Link(VIB, 0, 0, 0, 0.5 if halved else 1.0, 0.0, 0.0, True, False, len(mean))]
    return fused.matched_rows(mean, logvar, NOTHING.bool(), rows, vib), rows, vib


def bottleneck(mean: Tensor, logvar: Tensor, halved: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of the VIB [N] and the gradients of their sum."""
    results, *call = vib_rows(mean, logvar, halved)
    ones = torch.ones_like(results[0])
    return results[0, 0], *fused.matched_gradients(mean, logvar, results, NOTHING, ones, *call, (True, True))


def compare(
    levels: list[Gaussian], weight: Tensor, scale: float, form: tuple[float, float], reduce: str, kind: str
) -> None:
    """Values and gradients of one chain against float64 autograd through the plain formula."""
    got = run(levels, weight, scale, form, reduce, kind)
    leaves = [t.double().requires_grad_() for z in levels for t in z]
    wide = [Gaussian(*pair) for pair in zip(leaves[::2], leaves[1::2], strict=True)]
    chain = links(levels, scale, form, reduce, kind)
    rows = torch.stack([w * _reference_rows(wide, k)[0] for w, k in zip(weight.double(), chain, strict=True)]).sum(0)
    grads = torch.autograd.grad(rows.sum(), leaves)
    dims = levels[0].mean.shape[1]
    gap = torch.zeros_like(rows)
    reach = [torch.zeros_like(g) for g in grads]
    for k, w in enumerate(weight.double()):
        h, by_mean, by_logvar = (t.detach() for t in summands(wide[k], wide[k + 1], *form))
        factor = {"score": 1.0, "sum": scale, "mean": scale / dims, "none": scale}[
            "score" if kind == "score" else reduce
        ]
        if reduce == "none":
            slip, share = factor * h, factor / dims
            gap += w.abs() * (slip.mean(1) + 1)
        else:
            slip, share = factor * h.sum(1, keepdim=True), factor
            gap += w.abs() * (slip[:, 0] + (0 if kind == "score" else 1))
        # the derivative of -log sigmoid is at most 1, and changes by at most the error of its argument
        grow = w.abs()[:, None] * share * (1 + slip)
        for index, size in ((2 * k, by_mean), (2 * k + 1, by_logvar), (2 * k + 2, by_mean), (2 * k + 3, by_logvar)):
            reach[index] += grow * size
    assert torch.all((got[0].double() - rows).abs() <= UNIT * gap)
    flat = [g for pair in zip(got[1], got[2], strict=True) for g in pair]
    for have, want, bound in zip(flat, grads, reach, strict=True):
        assert have.shape == want.shape
        excess = ((have.double() - want).abs() / (2 * UNIT * bound + 1e-30)).max()
        assert excess <= 1, f"{excess:.2f} times the bound"


@pytest.mark.parametrize(("reduce", "kind"), REDUCTIONS)
@pytest.mark.parametrize(("levels", "n", "d"), [(2, 1, 7), (3, 5, 200), (4, 3, 64)])
def test_chains_of_every_length_and_reduction(levels: int, n: int, d: int, reduce: str, kind: str) -> None:
    chain = draw(levels, n, d, -8, 1)
    weight = torch.rand(levels - 1, n, device=DEVICE) - 0.3
    compare(chain, weight, 0.05, EXACT, reduce, kind)
    compare(chain, weight, 0.05, PROLIP, reduce, kind)


@pytest.mark.parametrize(("reduce", "kind"), REDUCTIONS)
def test_logvar_from_minus_30_to_20(reduce: str, kind: str) -> None:
    chain = draw(3, 4, 33, -30, 20, spread=1e-3)
    compare(chain, torch.ones(2, 4, device=DEVICE), 1e-4, EXACT, reduce, kind)


@pytest.mark.parametrize("scale", [1000.0, 0.01])
def test_steep_losses(scale: float) -> None:
    compare(draw(2, 3, 20, -2, -1), torch.ones(1, 3, device=DEVICE), scale, PROLIP, "none", "loss")


def test_near_equal_variances_keep_their_relative_accuracy() -> None:
    lower = torch.linspace(-9, 3, 48, device=DEVICE).reshape(1, 48)
    for step in (1e-6, 1e-4, 1e-2):
        upper = lower + step
        mean = torch.linspace(-1, 1, 48, device=DEVICE).reshape(1, 48)
        for i in range(0, 48, 12):
            x, y = Gaussian(mean[:, i : i + 1], lower[:, i : i + 1]), Gaussian(mean[:, i : i + 1], upper[:, i : i + 1])
            got = score(x, y)
            t = y.logvar.double() - x.logvar.double()
            # h = t/3 + O(t^3) for equal means
            want = 0.5 * t + 0.5 * torch.log1p(-torch.expm1(t) / (1 + 2 * torch.exp(t)))
            assert torch.all((got.double() - want[:, 0]).abs() <= 8 * 2.0**-24 * t.abs()[:, 0])


def score(x: Gaussian, y: Gaussian, form: tuple[float, float] = EXACT) -> Tensor:
    ones = torch.ones(1, len(x.mean), device=DEVICE)
    return run([x, y], ones, 1.0, form, "sum", "score")[0]


@pytest.mark.parametrize("d", [1, 77, 300])
def test_score_is_antisymmetric_to_the_last_bit(d: int) -> None:
    x, y = draw(2, 6, d, -30, 20)
    y.logvar[0] = x.logvar[0]
    forth, back = score(x, y), score(y, x)
    assert torch.equal(forth, -back)
    assert forth[0] == 0
    assert forth[1:].abs().min() > 0


def test_equal_variances_have_a_gradient() -> None:
    x, _ = draw(2, 2, 9, -3, -1)
    compare([x, Gaussian(x.mean + 0.2, x.logvar.clone())], torch.ones(1, 2, device=DEVICE), 1.0, EXACT, "sum", "loss")


def test_huge_but_representable_results_are_finite() -> None:
    x = Gaussian(torch.full((1, 4), 100.0, device=DEVICE), torch.full((1, 4), -30.0, device=DEVICE))
    y = Gaussian(torch.full((1, 4), -100.0, device=DEVICE), torch.full((1, 4), -29.0, device=DEVICE))
    compare([x, y], torch.ones(1, 1, device=DEVICE), 1.0, EXACT, "sum", "score")
    assert score(x, y) > 1e15


@pytest.mark.parametrize(("reduce", "kind"), REDUCTIONS)
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_links_of_weight_zero_add_exact_zeros(reduce: str, kind: str) -> None:
    chain = draw(3, 4, 20, -6, 0)
    weight = torch.ones(2, 4, device=DEVICE)
    weight[1, 2] = 0
    args = (0.3, EXACT, reduce, kind)
    whole = run(chain, weight, *args)
    chain[2].mean[2] = float("nan")
    chain[2].logvar[2, 3] = float("nan")
    got = run(chain, weight, *args)
    for a, b in zip([got[0], *got[1], *got[2]], [whole[0], *whole[1], *whole[2]], strict=True):
        assert torch.equal(a, b)
    assert not got[1][2][2].any()
    assert not got[2][2][2].any()


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_nan_stays_in_its_row_and_its_links() -> None:
    chain = draw(3, 4, 20, -6, 0)
    chain[0].mean[1, 5] = float("nan")
    rows, d_means, d_logvars = run(chain, torch.ones(2, 4, device=DEVICE), 0.3, EXACT, "sum", "loss")
    assert rows.isnan().tolist() == [False, True, False, False]
    assert d_means[1][1].isnan().all()
    assert not d_means[2].isnan().any()
    assert not d_logvars[0][[0, 2, 3]].isnan().any()


def test_long_chains() -> None:
    compare(draw(20, 2, 8, -4, 0), torch.rand(19, 2, device=DEVICE), 0.3, EXACT, "sum", "loss")


def test_means_in_16_bits_are_widened_and_their_gradients_cast_last() -> None:
    chain = draw(2, 5, 40, -6, 0)
    halves = [Gaussian(z.mean.half(), z.logvar) for z in chain]
    weight = torch.full((1, 5), 1000.0, device=DEVICE)
    got = run(halves, weight, 1.0, EXACT, "sum", "loss")
    same = run([Gaussian(z.mean.float(), z.logvar) for z in halves], weight, 1.0, EXACT, "sum", "loss")
    assert torch.equal(got[0], same[0])
    for half, full in zip(got[1], same[1], strict=True):
        assert half.dtype == torch.float16
        assert torch.equal(half, full.half())
    assert torch.equal(got[2][0], same[2][0])


@pytest.mark.parametrize("need", [(True, False), (False, True), (False, False)])
def test_gradients_that_nobody_asks_for_are_empty(need: tuple[bool, bool]) -> None:
    chain = draw(2, 3, 20, -6, 0)
    call = [3, 3], links(chain, 1.0, EXACT, "sum", "loss")
    mean, logvar = (torch.cat([z[i] for z in chain]) for i in (0, 1))
    flags, weight = torch.ones(3, dtype=torch.bool, device=DEVICE), torch.ones(1, 3, device=DEVICE)
    results = fused.matched_rows(mean, logvar, flags, *call)
    both = fused.matched_gradients(mean, logvar, results, NOTHING, weight, *call, (True, True))
    some = fused.matched_gradients(mean, logvar, results, NOTHING, weight, *call, need)
    for got, want, needed in zip(some, both, need, strict=True):
        assert torch.equal(got, want) if needed else got.numel() == 0


def test_empty_batches() -> None:
    nothing = Gaussian(torch.zeros(0, 8, device=DEVICE), torch.zeros(0, 8, device=DEVICE))
    rows, d_means, _ = run([nothing, nothing], torch.zeros(1, 0, device=DEVICE), 1.0, EXACT, "sum", "loss")
    assert rows.shape == (0,)
    assert d_means[0].shape == (0, 8)
    assert [t.shape for t in bottleneck(*nothing, False)] == [(0,), (0, 8), (0, 8)]


@pytest.mark.parametrize("halved", [False, True])
@pytest.mark.parametrize(("n", "d"), [(1, 1), (5, 300), (4, 32)])
def test_vib(n: int, d: int, halved: bool) -> None:
    z = draw(1, n, d, -30, 20, spread=1.0)[0]
    got = bottleneck(z.mean, z.logvar, halved)
    mean, q = z.mean.double(), (0.5 if halved else 1.0) * z.logvar.double()
    by_q = q.expm1() * ((0.25 if halved else 0.5) / d)
    for have, want in zip(got, (0.5 * (q.expm1() - q + mean**2).mean(1), mean / d, by_q), strict=True):
        assert torch.all((have.double() - want).abs() <= UNIT * want.abs())


@pytest.mark.parametrize("step", [1e-7, -1e-4, 1e-2, 0.99, 1.01, -1.01])
def test_vib_keeps_its_relative_accuracy_near_its_minimum(step: float) -> None:
    logvar = torch.full((1, 3), step, device=DEVICE)
    got = bottleneck(torch.zeros_like(logvar), logvar, False)
    q = logvar.double()[0, 0]
    want = 0.5 * (torch.expm1(q) - q) if abs(step) > 1e-3 else q.square() * (0.25 + q / 12)
    assert_same(got[0][0], want, terms=8)
    assert_same(got[2][0, 0], torch.expm1(q) / 6, terms=8)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_vib_of_strided_rows_and_infinities() -> None:
    z = draw(1, 6, 32, -3, 1)[0]
    wide = torch.zeros(12, 32, device=DEVICE)
    wide[::2] = z.mean
    assert torch.equal(vib_rows(wide[::2], z.logvar, False)[0], vib_rows(z.mean, z.logvar, False)[0])
    for extreme in (float("inf"), float("-inf")):
        assert vib_rows(z.mean, torch.full_like(z.logvar, extreme), False)[0][0, 0].tolist() == [float("inf")] * 6
