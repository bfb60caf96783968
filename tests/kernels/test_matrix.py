"""The matrix of a tile as an operation: transforms, compilations, shapes, memory, finite differences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prolap_kernels import Gaussian, pairwise_loss, pairwise_score
from prolap_kernels.backends.chunked import compiled, elementwise
from prolap_kernels.ops.scores import score_gradients_op, scores_op
from prolap_kernels.scores import Score
from tests.kernels.elementwise_support import COMPILER, DEVICE, draw, gradients, matrix, names
from tests.live_memory import peak_bytes
from tests.tolerances import assert_all_same, assert_same


@pytest.mark.parametrize("backend", ["chunked", "triton"])
def test_the_matrix_is_a_proper_operation(backend: str) -> None:
    tensors = [t.to(DEVICE) for t in (*draw(5, 4, 0), *draw(3, 4, 1))]
    torch.library.opcheck(scores_op, (*tensors, "inclusion", backend))
    grad = torch.randn(5, 3, device=DEVICE)
    for need in ((True, True), (False, True), (True, False)):
        torch.library.opcheck(score_gradients_op, (grad, *tensors, "kl", backend, *need))


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
            assert_same(a, b, terms=5 + 3 + 4)
    first = torch.autograd.grad(total(*inputs), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives are not implemented; backend='reference'"):
        torch.autograd.grad(first[0].sum(), inputs)


@pytest.mark.skipif(not COMPILER, reason="no C++ compiler")
def test_shapes_do_not_compile_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elementwise, "COMPILE_CELLS", 0)

    def run(n: int, m: int, d: int) -> None:
        x, y = (Gaussian(*(t.requires_grad_() for t in draw(k, d, k))) for k in (n, m))
        pairwise_score(x, y, score="inclusion").sum().backward()

    run(9, 4, 33)
    before = dict(compiled._programs)
    for shape in ((1, 1, 1), (3, 50, 7), (20, 2, 130)):
        run(*shape)
    assert compiled._programs == before
    assert sum(key[0] == "elementwise" and program is not None for key, program in before.items()) >= 3


@pytest.mark.parametrize("score", **names)
def test_empty_sides(score: Score) -> None:
    for n, m in ((0, 3), (3, 0)):
        x, y = (Gaussian(*(t.requires_grad_() for t in draw(k, 4, k))) for k in (n, m))
        found = matrix(score, x, y, "chunked")
        assert found.shape == (n, m)
        assert all(g.shape == t.shape for g, t in zip(gradients(found, found, x, y), [*x, *y], strict=True))


def test_variances_beyond_the_limit_stand_still_and_nan_stays() -> None:
    """Only the term that is linear in logvar goes on; nothing overflows."""
    logvar = torch.tensor([[-60.0], [-40.0], [40.0], [60.0]])
    z = Gaussian(torch.zeros(4, 1), logvar)
    found = pairwise_score(z, z, score="inclusion")
    tail = 0.5 * torch.log(torch.tensor(0.5))
    assert found[0, 1] == 10.0  # kappa t alone: both variances count as e^-40
    assert_same(found[1, 2], 40.0 + tail, terms=2)
    assert_same(found[0, 3], 60.0 + tail, terms=2)
    broken = Gaussian(torch.zeros(1, 1), torch.full((1, 1), float("nan")))
    assert pairwise_score(broken, z, score="inclusion").isnan().all()


@pytest.mark.skipif(not COMPILER, reason="no C++ compiler")
@pytest.mark.parametrize("what", ["loss", "matrix"])
def test_workspace_is_bounded(what: str, tmp_path: Path) -> None:
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


@pytest.mark.parametrize("score", **names)
def test_blocks_and_eager_pieces_change_no_value(score: Score, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 2 x 2 and pieces of a pair or so; gradients are added in another order."""
    x, y = (Gaussian(*(t.requires_grad_() for t in draw(k, 6, k))) for k in (7, 5))
    weight = torch.linspace(-1, 1, 35, device=DEVICE).reshape(7, 5)
    whole = matrix(score, x, y, "chunked")
    grads = gradients(whole, weight, x, y)
    monkeypatch.setitem(elementwise.MATRIX_CELLS, DEVICE, 2 * 2 * (elementwise.PARTS * 6 + 1))
    monkeypatch.setattr(elementwise, "EAGER_CELLS", 8)
    assert len(list(elementwise._blocks(x, y))) == 4 * 3
    parted = matrix(score, x, y, "chunked")
    assert_same(parted, whole, terms=6)
    assert_all_same(gradients(parted, weight, x, y), grads, terms=7 + 5 + 6)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"x": torch.zeros(3, 4)},
            TypeError,
            r"x must be a Gaussian\(mean, logvar\), because variances are used, got a torch.float32 tensor",
        ),
        ({"y": Gaussian(torch.zeros(3, 5), torch.zeros(3, 5))}, ValueError, "y must have x's 4 dimensions, got 5"),
        ({"y": Gaussian(torch.zeros(3, 4), torch.zeros(3, 1))}, ValueError, r"y.logvar must be of mean's shape"),
        ({"y": Gaussian(torch.zeros(3, 4).double(), torch.zeros(3, 4))}, TypeError, "y.mean must have x.mean's dtype"),
        ({"score": "inclusoin"}, ValueError, "did you mean 'inclusion'"),
        ({"score": "kl", "convention": "prolip"}, (TypeError, ValueError), "convention"),
        ({"backend": "fused"}, ValueError, "backend must be one of"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], error: type[Exception], message: str) -> None:
    z = Gaussian(torch.zeros(3, 4), torch.zeros(3, 4))
    given: dict[str, Any] = {"x": z, "y": z, "score": "inclusion"} | change
    with pytest.raises(error, match=message):
        pairwise_score(given.pop("x"), given.pop("y"), **given)
