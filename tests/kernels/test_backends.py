"""The public losses on the fused kernels (in the interpreter where there is no GPU) against float64."""

from __future__ import annotations

import pytest
import torch

from prolap_kernels import Gaussian, hierarchical_inclusion_loss, inclusion_score, pairwise_loss, vib_loss
from prolap_kernels.backends import pick_backend
from prolap_kernels.objectives import pointwise_objective
from prolap_kernels.scores import BILINEAR, CONVENTIONS, SCORES
from tests.kernels.common import ID_CASES, as_float64, gaussian, pair_inputs, pair_loss, value_and_grads
from tests.tolerances import assert_as_exact_as, assert_near, assert_same, likely

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def on_device(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    return [t.detach().to(DEVICE).requires_grad_() for t in tensors]


def assert_no_worse_than_eager(loss, truth_loss, inputs: list[torch.Tensor], dtype: torch.dtype) -> None:
    """Error against float64 of the same rounded inputs: at most twice what eager torch errs, plus the rounding of the products'
    operands (the gradient of a logit is rounded to a 16-bit dtype once) and of the result; sums over up to 37 + 21 rows and 19
    dimensions, of logits of size 3 and below."""
    truth = value_and_grads(truth_loss, as_float64(inputs))
    eager = value_and_grads(truth_loss, inputs)
    got = value_and_grads(loss, inputs)
    assert_as_exact_as(eager, got, truth, terms=likely(37 + 21 + 19), result=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("score", [score.name for score in BILINEAR])
def test_every_lift_on_ragged_shapes(score: str, dtype: torch.dtype) -> None:
    inputs = on_device(pair_inputs(37, 21, 19, dtype, logvar=-3.0))
    assert_no_worse_than_eager(
        pair_loss(score, "sigmoid", backend="triton"), pair_loss(score, "sigmoid", backend="reference"), inputs, dtype
    )


@pytest.mark.parametrize("case", ID_CASES)
@pytest.mark.parametrize("reduction", ["rows", "pairs"])
def test_ids_and_reductions(case: str, reduction: str) -> None:
    inputs = on_device(pair_inputs(dtype=torch.float32))
    options = {"reduction": reduction}
    assert_no_worse_than_eager(
        pair_loss("csd", "sigmoid", case, backend="triton", **options),
        pair_loss("csd", "sigmoid", case, backend="reference", **options),
        inputs,
        torch.float32,
    )


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (0, 3), (3, 0)])
def test_small_and_empty_sides(shape: tuple[int, int]) -> None:
    inputs = on_device(pair_inputs(*shape, 5, torch.float32))
    assert_no_worse_than_eager(
        pair_loss("csd", "sigmoid", backend="triton"),
        pair_loss("csd", "sigmoid", backend="reference"),
        inputs,
        torch.float32,
    )


def test_per_row_losses_and_negatives_only() -> None:
    inputs = on_device(pair_inputs(dtype=torch.float32))
    weight = torch.tensor([1.0, -2.0, 0.0, 3.0, 0.5], device=DEVICE)

    def loss(backend: str):
        rows = pair_loss("csd", "sigmoid", "several positives", backend=backend, reduction="none", negatives_only=True)
        return lambda *t: (rows(*t) * weight.to(t[0].dtype)).sum()

    assert_no_worse_than_eager(loss("triton"), loss("reference"), inputs, torch.float32)


@pytest.mark.parametrize("frozen", range(6))
def test_frozen_sides(frozen: int) -> None:
    inputs = on_device(pair_inputs(dtype=torch.float32))
    want = value_and_grads(pair_loss("csd", "sigmoid", backend="chunked"), inputs)[1:]
    inputs[frozen] = inputs[frozen].detach()
    live = [i for i in range(6) if i != frozen]
    grads = torch.autograd.grad(pair_loss("csd", "sigmoid", backend="triton")(*inputs), [inputs[i] for i in live])
    for got, i in zip(grads, live, strict=True):
        assert_same(got, want[i], terms=5 + 4 + 3)  # rows, columns, dimensions


def test_backward_twice_and_a_loss_scaler_in_float16() -> None:
    x, y = gaussian(40, 16, 1, torch.float16), gaussian(40, 16, 2, torch.float16)
    x, y = Gaussian(*on_device([*x])), Gaussian(*on_device([*y]))
    loss = pairwise_loss(x, y, bias=-18.0, backend="triton")
    first = torch.autograd.grad(loss * 65536, [*x, *y], retain_graph=True)
    second = torch.autograd.grad(loss * 65536, [*x, *y])
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert (first[0] != 0).all()  # sigma(-18) flushes to 0 in float16 unless it is scaled first
    truth = as_float64([*x, *y])
    exact = pairwise_loss(Gaussian(*truth[:2]), Gaussian(*truth[2:]), bias=-18.0, backend="reference")
    for got, want in zip(first, torch.autograd.grad(exact, truth), strict=True):
        assert_near([got.double() / 65536], [want], terms=2, dtype=torch.float16)


@pytest.mark.parametrize("convention", list(CONVENTIONS))
@pytest.mark.parametrize("reduce_dims", ["sum", "mean", "none"])
def test_the_chain(reduce_dims: str, convention: str) -> None:
    inputs = on_device([t for seed in range(4) for t in gaussian(5, 19, seed, torch.float32)])
    valid = torch.rand(3, 5, generator=torch.Generator().manual_seed(0)).to(DEVICE) > 0.3

    def loss(backend: str):
        def run(*t: torch.Tensor) -> torch.Tensor:
            levels = [Gaussian(*t[i : i + 2]) for i in range(0, 8, 2)]
            return hierarchical_inclusion_loss(
                levels, scale=0.2, convention=convention, reduce_dims=reduce_dims, link_valid=valid, backend=backend
            )

        return run

    assert_no_worse_than_eager(loss("triton"), loss("reference"), inputs, torch.float32)


def test_scores_and_vib() -> None:
    inputs = on_device([*gaussian(5, 19, 1, torch.float32), *gaussian(5, 19, 2, torch.float32)])

    def loss(backend: str):
        def run(*t: torch.Tensor) -> torch.Tensor:
            x, y = Gaussian(*t[:2]), Gaussian(*t[2:])
            bottleneck = vib_loss(x, backend=backend) + vib_loss(y, convention="prolip", backend=backend)
            return inclusion_score(x, y, backend=backend).square().sum() + bottleneck

        return run

    assert_no_worse_than_eager(loss("triton"), loss("reference"), inputs, torch.float32)


def test_nan_stays_nan() -> None:
    x = Gaussian(*on_device([*gaussian(3, 4, 1, torch.float32)]))
    broken = Gaussian(x.mean * float("nan"), x.logvar)
    assert pairwise_loss(broken, x, backend="triton").isnan()
    assert vib_loss(broken, backend="triton").isnan()
    assert inclusion_score(broken, x, backend="triton").isnan().all()


def test_the_default_backend(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prolap_kernels.backends._said", set())  # each reason is said once in a process
    assert pick_backend(None, torch.device("cpu"), torch.float32) == "chunked"
    assert pick_backend(None, torch.device("cuda"), torch.float64) == "chunked"
    assert "float64 has no fused kernels" in caplog.text
    objective = pointwise_objective("new", lambda logit, positive: torch.where(positive, -logit, logit).relu())
    assert pick_backend(None, torch.device("cuda"), torch.float32, SCORES["csd"], objective) == "chunked"
    assert "the objective 'new' has no fused kernel" in caplog.text
