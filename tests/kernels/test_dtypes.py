"""Inputs whose dtypes differ, 16 bits, autocast; programs that are compiled and called without guards; long sums of these."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from prolap_kernels import SCORES, Gaussian, infonce_loss, pairwise_loss, pairwise_score, ppcl_loss
from prolap_kernels.backends.chunked.compiled import Signature
from prolap_kernels.backends.problem import float32_products
from prolap_kernels.ops import pairs as ops
from tests.kernels.common import gaussian, value_and_grads
from tests.tolerances import assert_near

COMPILER = shutil.which("g++") is not None


def exact(z: Gaussian) -> Gaussian:
    return Gaussian(*(t.detach().double().requires_grad_() for t in z))


def of(kinds: tuple[torch.dtype, torch.dtype], n: int, seed: int) -> Gaussian:
    z = gaussian(n, 8, seed).detach()
    return Gaussian(*(t.to(kind).requires_grad_() for t, kind in zip(z, kinds, strict=True)))


@pytest.mark.parametrize("kinds", [(torch.float64, torch.float32), (torch.float32, torch.float64)])
@pytest.mark.parametrize("backend", ["chunked", "reference"])
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("n", [6, pytest.param(1100, marks=pytest.mark.skipif(not COMPILER, reason="no C++ compiler"))])
def test_a_mean_and_a_logvar_of_different_dtypes(
    n: int, score: str, backend: str, kinds: tuple[torch.dtype, torch.dtype]
) -> None:
    if n > 6 and (backend == "reference" or score not in ("csd", "wasserstein2", "kl")):
        pytest.skip("only these run compiled")
    name, _, convention = score.partition("/")
    options = {"convention": convention} if convention else {}
    x, y = of(kinds, n, 1), of(kinds, n, 2)

    def loss(mx: Tensor, lx: Tensor, my: Tensor, ly: Tensor) -> Tensor:
        sides = Gaussian(mx, lx), Gaussian(my, ly)
        return pairwise_loss(*sides, score=name, scale=2.0, bias=-2.0, backend=backend, **options)  # type: ignore[call-overload, no-any-return]

    got, want = value_and_grads(loss, [*x, *y]), value_and_grads(loss, [*exact(x), *exact(y)])
    assert [g.dtype for g in got[1:]] == [t.dtype for t in (*x, *y)]
    assert_near(got, want, terms=8 * (8 + 30), dtype=torch.float32)


def test_a_signature_refuses_what_its_program_cannot_take() -> None:
    signature = Signature.of([torch.zeros(7, 5), torch.zeros(7), torch.zeros(1)], (7, 5))
    good = [torch.zeros(3, 4), torch.zeros(3), torch.zeros(1)]
    signature.check(good)
    for k, wrong in (
        (0, torch.zeros(3, 4, dtype=torch.float64)), (0, torch.zeros(4, 3).T), (0, torch.zeros(3, 4, 1)),
        (1, torch.zeros(4)), (2, torch.zeros(2)), (0, torch.zeros(3, 4, device="meta")),
    ):  # fmt: skip
        with pytest.raises(AssertionError, match=f"argument {k} of a compiled program must be a contiguous CPU tensor"):
            signature.check([*good[:k], wrong, *good[k + 1 :]])


@pytest.mark.parametrize("shape", [(400_000, 3), (1_100_000, 1)])
def test_a_softmax_along_a_long_axis_errs_no_more_than_eager_torch(shape: tuple[int, int]) -> None:
    x, y = (F.normalize(gaussian(n, 4, seed).mean.detach(), dim=1) for seed, n in enumerate(shape))

    def ours(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        return infonce_loss(x, y, scale)

    def eager(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        logit, index = scale * (x @ y.T), torch.arange(len(y))
        rows, cols = (F.cross_entropy(t, index) for t in (logit[: len(y)], logit.T))
        return (rows + cols) / 2

    inputs = [x, y, torch.tensor(10.0, dtype=torch.float64)]
    single = [t.float().requires_grad_() for t in inputs]
    want = value_and_grads(ours, [t.double().requires_grad_() for t in single])
    got, plain = value_and_grads(ours, single), value_and_grads(eager, single)
    for a, b, truth in zip(got, plain, want, strict=True):
        size = truth.abs().max()
        assert (a - truth).abs().max() <= max(2 * (b - truth).abs().max(), 4 * torch.finfo(torch.float32).eps * size)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_the_reference_computes_16_bits_in_float32(kind: torch.dtype) -> None:
    x, y = (Gaussian((200 * z.mean).to(kind), z.logvar.float()) for z in (gaussian(9, 8, s).detach() for s in (1, 2)))
    want = pairwise_loss(exact(x), exact(y), score="dot", scale=1e-3, backend="reference")
    got = pairwise_loss(x, y, score="dot", scale=1e-3, backend="reference")
    assert got.dtype == pairwise_score(x, y, backend="reference").dtype == torch.float32
    assert_near([got], [want], terms=8 + 9, dtype=torch.float32)


@pytest.mark.parametrize("score", ["csd", "csd_distance", "wasserstein2"])
def test_offsets_come_from_the_means_that_autocast_rounds(score: str) -> None:
    """The positives' score is then that of nearly equal points, with nothing left over from two different roundings."""
    x = gaussian(64, 256, 1, torch.float32, logvar=-14.0).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        stats = pairwise_loss(x, x, score=score, scale=1.0, stats=True)[1]
    rounded = Gaussian(x.mean.bfloat16().double(), x.logvar.double())
    want = pairwise_loss(rounded, rounded, score=score, scale=1.0, stats=True, backend="reference")[1]
    assert (stats.positive_logit - want.positive_logit).abs() <= 1e-5


@pytest.mark.parametrize("precision", ["ieee", "tf32"])
@pytest.mark.parametrize("level", ["highest", "high", "medium"])
def test_another_thread_can_read_the_older_flag_meanwhile(level: str, precision: str) -> None:
    before = torch.get_float32_matmul_precision()
    read = lambda: (torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32)  # noqa: E731
    torch.set_float32_matmul_precision(level)
    try:
        mine = read()
        with float32_products(precision), ThreadPoolExecutor(1) as pool:
            assert pool.submit(read).result()[1] == (precision == "tf32")
        assert read() == mine
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("backend", ["chunked", "triton"])
def test_a_loss_takes_one_function_and_a_frozen_side_no_product(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    x, y = gaussian(5, 8, 1, torch.float32), gaussian(5, 8, 2, torch.float32)
    scale, seen = torch.tensor(2.0, requires_grad=True), []
    apply = torch.autograd.Function.apply.__func__  # type: ignore[attr-defined]
    counted = classmethod(lambda cls, *args: seen.append(cls.__name__) or apply(cls, *args))
    monkeypatch.setattr(torch.autograd.Function, "apply", counted)
    if backend == "triton" and not torch.cuda.is_available():
        pytest.importorskip("triton")
    ppcl_loss(x, y, scale, -2.0, x_id=torch.arange(5) - 1, y_id=torch.arange(5), backend=backend).backward()
    assert seen == ["_EagerPairLoss"]

    options: list[object] = []
    launcher = ops.launcher
    monkeypatch.setattr(ops, "launcher", lambda o: options.append(o) or launcher(o))
    frozen = Gaussian(x.mean.detach(), x.logvar.detach().requires_grad_())
    ppcl_loss(frozen, y.detach(), 2.0, -2.0, backend=backend).backward()
    assert [(o.need_x, o.need_y, o.need_sums) for o in options] == [(False, False, True)]  # type: ignore[attr-defined]
