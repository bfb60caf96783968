"""Scores that are sums over dimensions: one source against its formula, in every place where it runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from prolap_kernels import OBJECTIVES, Gaussian, pairwise_loss, pairwise_score
from prolap_kernels.backends import compiled, tile_blocks
from prolap_kernels.reference import score_matrix
from prolap_kernels.score_ops import scores_op, slopes_op
from prolap_kernels.scores import CONVENTIONS, TILES, Score
from tests.kernels.common import as_float64, pair_inputs, pair_loss, relative, value_and_grads
from tests.live_memory import peak_bytes

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
COMPILER = shutil.which("g++") is not None
EPS = torch.finfo(torch.float32).eps
PLACES = ["eager", pytest.param("compiled", marks=pytest.mark.skipif(not COMPILER, reason="no C++ compiler")), "triton"]
names = {"argvalues": TILES, "ids": [s.name for s in TILES]}


@pytest.fixture
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where sums are taken: `backend` for the call, and compilation at any size or at none."""
    compiles = request.param == "compiled"
    monkeypatch.setattr(tile_blocks, "COMPILE_CELLS", 0 if compiles else 1 << 60)
    monkeypatch.setattr(tile_blocks, "EAGER_CELLS", 300)
    return "triton" if request.param == "triton" else "chunked"


def draw(n: int, d: int, seed: int, centre: float = -2.0, spread: float = 1.0) -> Gaussian:
    random = torch.Generator().manual_seed(seed)
    mean = torch.randn(n, d, generator=random)
    return Gaussian(mean, centre + spread * torch.randn(n, d, generator=random))


def matrix(score: Score, x: Gaussian, y: Gaussian, backend: str) -> Tensor:
    name, _, convention = score.name.partition("/")
    options = {"convention": convention} if convention else {}
    x, y = (Gaussian(z.mean.to(DEVICE), z.logvar.to(DEVICE)) for z in (x, y))
    return pairwise_score(x, y, score=name, backend=backend, **options).cpu()


def gradients(matrix: Tensor, weight: Tensor, x: Gaussian, y: Gaussian) -> list[Tensor]:
    tensors = [*x, *y]
    return list(torch.autograd.grad((matrix * weight).sum(), tensors, allow_unused=True, materialize_grads=True))


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
    for a, b, c in zip(got, eager, want, strict=True):
        assert relative(a, c) <= 2 * relative(b, c) + 2 * EPS


@pytest.mark.parametrize("score", **names)
def test_slopes_by_hand_are_the_formulas_derivatives(score: Score) -> None:
    """Variances alike, nearly alike and e^12 apart, in float64."""
    apart = torch.tensor([0.0, 1e-4, -1e-2, 0.5, -3.0, 12.0, -12.0], dtype=torch.float64)
    random = torch.Generator().manual_seed(0)
    lx = torch.randn(4, 7, generator=random, dtype=torch.float64)[:, None]
    ly = lx.transpose(0, 1)[:, :1] + apart
    mx, my = (torch.randn(shape, generator=random, dtype=torch.float64) for shape in ((4, 1, 7), (1, 1, 7)))
    inputs = [t.clone().requires_grad_() for t in (mx, lx, my, ly)]
    tile = score.tile
    assert tile is not None
    value = score.formula(Gaussian(*inputs[:2]), Gaussian(*inputs[2:]))
    ones = torch.ones_like(value)
    want = torch.autograd.grad(value, inputs, ones, allow_unused=True, materialize_grads=True)
    parts = [tile.parts_x(mx * tile.mean_scale, lx), tile.parts_y(my * tile.mean_scale, ly)]
    six = [*(p + p[:1] * (3 - len(p)) for p in parts)]
    flat = [t for side in six for t in side]
    found = []
    for slope, linear in ((tile.slope_x, tile.logvar_x), (tile.slope_y, tile.logvar_y)):
        by_mean, by_logvar = slope(*flat)
        found += [by_mean * tile.mean_scale, by_logvar + linear]
    for by, w in zip(found, want, strict=True):
        torch.testing.assert_close((by * ones).sum_to_size(w.shape), w, rtol=1e-9, atol=1e-9)
    plain = tile.value(*flat) + tile.logvar_x * lx + tile.logvar_y * ly
    torch.testing.assert_close(plain, value, rtol=1e-9, atol=1e-9)


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
    score = next(s for s in TILES if s.name == name)
    error = (matrix(score, x, y, place).double() - truth).abs()
    assert (error <= 1e-6 * size).all(), float((error / size).max())


@pytest.mark.parametrize("place", PLACES, indirect=True)
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_inclusion_is_antisymmetric_to_the_last_bit(
    place: str, convention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tile_blocks.MATRIX_CELLS, "cpu", 2 * tile_blocks.PARTS * 21 * 10)  # blocks of 10 rows
    x, y = draw(17, 21, 0, -10, 3), draw(23, 21, 1, -10, 3)
    score = TILES[0] if convention == "exact" else TILES[1]
    there, back = matrix(score, x, y, place), matrix(score, y, x, place)
    assert torch.equal(there, -back.T)
    assert torch.equal(matrix(score, x, x, place).diagonal(), torch.zeros(17))


@pytest.mark.parametrize("place", ["triton"], indirect=True)
@pytest.mark.parametrize("score", **names)
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("case", ["several positives", "ignored"])
def test_losses_are_those_of_the_reference(score: Score, objective: str, case: str, place: str) -> None:
    """float32 against float64; no more than eager torch errs, four times, and the rounding of what is summed: the gradient by the
    scale is a sum of g s that cancels."""
    inputs = [t.detach().to(DEVICE).requires_grad_() for t in pair_inputs(dtype=torch.float32)]
    want = value_and_grads(pair_loss(score.name, objective, case, backend="reference"), as_float64(inputs))
    eager = value_and_grads(pair_loss(score.name, objective, case, backend="reference"), inputs)
    got = value_and_grads(pair_loss(score.name, objective, case, backend=place), inputs)
    summed = [float(t.norm()) for t in want]
    x, y = Gaussian(*as_float64(inputs[:2])), Gaussian(*as_float64(inputs[2:4]))
    summed[5] = max(summed[5], float(score_matrix(score, x, y).detach().abs().mean(0).sum()))
    for a, b, c, size in zip(got, eager, want, summed, strict=True):
        assert float((a.double() - c).norm()) <= 4 * float((b.double() - c).norm()) + 4 * EPS * size


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
        for a, b, c in zip(*found, strict=True):
            assert relative(a, c) <= 4 * relative(b, c) + 4 * EPS
    seen = [pairwise_loss(x, y, backend=backend, stats=True, **options)[1] for backend in (place, "reference")]
    torch.testing.assert_close(*seen)
    half = [Gaussian(z.mean.detach().bfloat16().requires_grad_(), z.logvar) for z in (x, y)]
    wide = [Gaussian(z.mean.detach().float().requires_grad_(), z.logvar) for z in half]
    losses = [pairwise_loss(*sides, backend=place, **options) for sides in (half, wide)]
    torch.testing.assert_close(*losses, rtol=EPS, atol=0)
    mine, theirs = (torch.autograd.grad(v, s[0].mean)[0] for v, s in zip(losses, (half, wide), strict=True))
    assert mine.dtype == torch.bfloat16
    torch.testing.assert_close(mine, theirs.bfloat16())


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
    torch.testing.assert_close(padded[0], plain[0])
    for a, b in zip(padded[1:], plain[1:], strict=True):
        torch.testing.assert_close(a[: len(b)], b)
        assert (a[len(b) :] == 0).all()


def test_a_frozen_side_costs_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    slopes = tile_blocks.slopes

    def counted(score: str, x: Gaussian, y: Gaussian, grad: Tensor, side: str, backend: str) -> tuple[Tensor, Tensor]:
        asked.append(side)
        return slopes(score, x, y, grad, side, backend)

    monkeypatch.setattr(tile_blocks, "slopes", counted)
    x, y = draw(5, 4, 0), draw(4, 4, 1)
    y.logvar.requires_grad_()
    pairwise_loss(x, y, score="inclusion").backward()
    pairwise_score(x, y, score="inclusion").sum().backward()
    assert asked == ["y", "y"]
    pairwise_loss(x, Gaussian(*(t.detach() for t in y)), score="inclusion")
    assert asked == ["y", "y"]


@pytest.mark.parametrize("backend", ["chunked", "triton"])
def test_the_matrix_is_a_proper_operation(backend: str) -> None:
    tensors = [t.to(DEVICE) for t in (*draw(5, 4, 0), *draw(3, 4, 1))]
    torch.library.opcheck(scores_op, (*tensors, "inclusion", backend))
    grad = torch.randn(5, 3, device=DEVICE)
    for need in ((True, True), (False, True), (True, False)):
        torch.library.opcheck(slopes_op, (grad, *tensors, "kl", backend, *need))


def test_the_matrix_compiles_and_transforms() -> None:
    inputs = [t.requires_grad_() for t in (*draw(5, 4, 0), *draw(3, 4, 1))]

    def total(*t: Tensor) -> Tensor:
        return pairwise_score(Gaussian(*t[:2]), Gaussian(*t[2:]), score="inclusion").square().sum()

    want = torch.autograd.grad(total(*inputs), inputs)
    graph = torch.compile(total, fullgraph=True, backend="aot_eager")
    for found in (
        torch.autograd.grad(graph(*inputs), inputs),
        torch.func.grad(total, argnums=(0, 1, 2, 3))(*[t.detach() for t in inputs]),
    ):
        for a, b in zip(found, want, strict=True):
            torch.testing.assert_close(a, b)
    first = torch.autograd.grad(total(*inputs), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives are not implemented; backend='reference'"):
        torch.autograd.grad(first[0].sum(), inputs)


@pytest.mark.skipif(not COMPILER, reason="no C++ compiler")
def test_shapes_do_not_compile_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tile_blocks, "COMPILE_CELLS", 0)

    def run(n: int, m: int, d: int) -> None:
        x, y = (Gaussian(*(t.requires_grad_() for t in draw(k, d, k))) for k in (n, m))
        pairwise_score(x, y, score="inclusion").sum().backward()

    run(9, 4, 33)
    before = dict(compiled._programs)
    for shape in ((1, 1, 1), (3, 50, 7), (20, 2, 130)):
        run(*shape)
    assert compiled._programs == before
    assert sum(key[0] == "tile" and program is not None for key, program in before.items()) >= 3


@pytest.mark.parametrize("score", **names)
def test_empty_sides_and_no_dimensions(score: Score) -> None:
    for n, m, d in ((0, 3, 4), (3, 0, 4), (3, 2, 0)):
        x, y = (Gaussian(*(t.requires_grad_() for t in draw(k, d, k))) for k in (n, m))
        found = matrix(score, x, y, "chunked")
        assert found.shape == (n, m)
        assert (found == 0).all()
        assert all(g.shape == t.shape for g, t in zip(gradients(found, found, x, y), [*x, *y], strict=True))


def test_variances_beyond_the_limit_stand_still_and_nan_stays() -> None:
    """Only the term that is linear in logvar goes on; nothing overflows."""
    logvar = torch.tensor([[-60.0], [-40.0], [40.0], [60.0]])
    z = Gaussian(torch.zeros(4, 1), logvar)
    found = pairwise_score(z, z, score="inclusion")
    tail = 0.5 * torch.log(torch.tensor(0.5))
    assert found[0, 1] == 10.0  # kappa t alone: both variances count as e^-40
    torch.testing.assert_close(found[1, 2], 40.0 + tail)
    torch.testing.assert_close(found[0, 3], 60.0 + tail)
    broken = Gaussian(torch.zeros(1, 1), torch.full((1, 1), float("nan")))
    assert pairwise_score(broken, z, score="inclusion").isnan().all()


@pytest.mark.skipif(not COMPILER, reason="no C++ compiler")
@pytest.mark.parametrize("what", ["loss", "matrix"])
def test_scratch_is_bounded(what: str, tmp_path: Path) -> None:
    """At most 64 MB beyond inputs, output and gradients: 3000 x 3000 x 64 would be 2.3 GB at once."""

    def run(n: int) -> tuple[Gaussian, Gaussian]:
        x, y = (Gaussian(torch.randn(n, 64).requires_grad_(), torch.randn(n, 64).requires_grad_()) for _ in range(2))
        if what == "loss":
            pairwise_loss(x, y, score="inclusion", scale=0.01).backward()
        else:
            matrix = pairwise_score(x, y, score="inclusion")
            matrix.backward(matrix.detach())
        return x, y

    run(1100)  # compiles
    rows = 4 * 3000 * 64 * 4  # means and log-variances of both sides
    saved = rows if what == "loss" else 0  # the loss keeps its gradients until backward scales them
    output = 0 if what == "loss" else 4 * 3000 * 3000
    assert peak_bytes(lambda: run(3000), tmp_path) <= (64 << 20) + 2 * rows + saved + output


@pytest.mark.parametrize("score", **names)
def test_gradcheck_of_the_matrix(score: Score) -> None:
    """Against finite differences in float64, which know no formula."""
    inputs = [t.double().requires_grad_() for t in (*draw(3, 4, 0, -0.5, 0.5), *draw(2, 4, 1, -0.5, 0.5))]
    name, _, convention = score.name.partition("/")
    options = {"convention": convention} if convention else {}

    def matrix_of(*t: Tensor) -> Tensor:
        return pairwise_score(Gaussian(*t[:2]), Gaussian(*t[2:]), score=name, **options)

    assert torch.autograd.gradcheck(matrix_of, inputs, atol=1e-7)
