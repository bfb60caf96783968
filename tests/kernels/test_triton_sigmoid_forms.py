"""The fused sigmoid engine in all its forms: ids, statistics, descriptors, vendor products, launches, repeatability."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton")

from prolap_kernels import Gaussian, ppcl_loss
from prolap_kernels.backends.chunked import pairs as chunked
from prolap_kernels.backends.problem import PairSums
from prolap_kernels.backends.triton import configs, gemm, sigmoid
from tests.kernels.common import gaussian, pair_sums
from tests.tolerances import assert_all_same, assert_same, bound, likely

from .test_triton_sigmoid import DEVICE, NONE, Case, ask, check, evaluate, make, run


def terms(case: Case) -> float:
    """Logits of size 12 and below, and sums over rows, columns and dimensions."""
    return 12 + likely(sum(case.phi_x.shape) + len(case.phi_y))


def assert_like(got: PairSums, want: PairSums, case: Case) -> None:
    """The same sums in another order. The gradients by phi see G rounded to 16 bits from float32 scores that differ in their
    last bits, so that some of it is rounded the other way."""
    for name, a, b in zip(PairSums._fields, got, want, strict=True):
        rounded = name in ("dphi_x", "dphi_y") and case.phi_x.dtype != torch.float32
        assert_same(a, b, terms=2 if rounded else terms(case), dtype=case.phi_x.dtype if rounded else None, name=name)


def diagonal(case: Case) -> Case:
    """The ids that a call without ids stands for."""
    return case._replace(
        x_id=torch.arange(len(case.phi_x), device=DEVICE), y_id=torch.arange(len(case.phi_y), device=DEVICE)
    )


@pytest.mark.parametrize("negatives_only", [False, True])
def test_the_diagonal_without_ids_is_the_diagonal_with_ids(negatives_only: bool) -> None:
    case = diagonal(make(150, 140, 16, torch.float32))
    given = pair_sums(sigmoid.add_pairs, case, ask(negatives_only))
    index = pair_sums(sigmoid.add_pairs, case, ask(negatives_only, ids=False))
    assert_like(index, given, case)


def test_blocks_off_the_diagonal_know_where_it_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    case = diagonal(make(270, 140, 16, torch.float32))
    monkeypatch.setattr(configs, "WORKSPACE", 128 * 128 * 4)
    given, index = pair_sums(sigmoid.add_pairs, case, ask()), pair_sums(sigmoid.add_pairs, case, ask(ids=False))
    assert_like(index, given, case)


@pytest.mark.parametrize("high", [1 << 32, 1 << 62])
def test_ids_beyond_32_bits_are_exact(high: int) -> None:
    case = make(20, 30, 8, torch.float32)
    spread = torch.arange(20, device=DEVICE) % 3
    check(case._replace(x_id=spread + high, y_id=torch.arange(30, device=DEVICE) % 5 + high))
    check(case._replace(x_id=spread + high, y_id=torch.arange(30, device=DEVICE) % 5))
    # the lower half of these would look like an ignored row
    check(case._replace(x_id=spread + 0xFFFFFFFE, y_id=torch.arange(30, device=DEVICE) - 1))


@pytest.mark.parametrize("scale", [0.0, -3.0])
def test_ignored_columns_stay_ignored_at_any_scale(scale: float) -> None:
    case = make(20, 30, 8, torch.float32)._replace(scale=torch.tensor(scale, device=DEVICE))
    truth, _ = evaluate(case, torch.float64)
    got = run(case)
    assert_same(got.loss, truth.loss, terms=terms(case))
    assert_same(got.col_sum, truth.col_sum, terms=terms(case))


def test_small_losses_and_their_products_are_exact() -> None:
    case = make(4, 100, 16, torch.float32, offsets=False)
    case = case._replace(phi_x=torch.zeros_like(case.phi_x), x_id=case.x_id * 0 + 50, y_id=case.y_id.clamp_min(0))
    for logit in (-17.0, -1.0, 0.0, 17.0):
        got = run(case._replace(bias=torch.tensor(logit, device=DEVICE))).loss
        want = 100 * torch.nn.functional.softplus(torch.tensor(logit, dtype=torch.float64))
        # exp(-|logit|) inherits the rounding of |logit|; 100 alike are summed
        assert_same(got, want.expand(4), terms=abs(logit) + likely(100))


@pytest.mark.parametrize("negatives_only", [False, True])
@pytest.mark.parametrize("ids", [False, True])
def test_statistics_come_with_the_same_sums(ids: bool, negatives_only: bool) -> None:
    case = make(40, 50, 16, torch.float32)
    case = case if ids else diagonal(case)
    options = ask(negatives_only, ids=ids, stats=True)
    got = pair_sums(sigmoid.add_pairs, case, options)
    for a, b in zip(got[:6], pair_sums(sigmoid.add_pairs, case, options._replace(stats=False)), strict=False):
        assert torch.equal(a, b)
    s = case.phi_x.double() @ case.phi_y.double().T + case.alpha.double()[:, None] + case.beta.double()[None, :]
    logit = case.scale.double() * s + case.bias.double()
    positive = case.x_id[:, None] == case.y_id[None, :]
    counted = (case.x_id >= 0)[:, None] & (case.y_id >= 0)[None, :]
    hit, miss = positive & counted & (not negatives_only), counted & ~positive
    slope = torch.where(positive, -logit, logit).sigmoid()
    want = torch.stack([
        torch.where(hit, logit, 0).sum(1), torch.where(miss, logit, 0).sum(1),
        (hit & (slope < 1e-3)).sum(1), (miss & (slope < 1e-3)).sum(1),
    ])  # fmt: skip
    size = torch.where(counted, logit.abs(), 0).sum(1)
    assert torch.all((got.stats[:2].double() - want[:2]).abs() <= bound(torch.float32, terms(case)) * size)
    assert torch.equal(got.stats[2:].double(), want[2:].double())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_descriptors_agree_with_pointers(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make(70, 150, 40, dtype)
    pointers = pair_sums(sigmoid.add_pairs, case, ask())
    monkeypatch.setitem(configs.BILINEAR, ("small", dtype), configs.Tile(64, 128, 16, 4, 2, 4, 1, True))
    assert_like(pair_sums(sigmoid.add_pairs, case, ask()), pointers, case)


def with_vendor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's mixed product exists on a GPU alone: here it is taken in float64."""

    def vendor(out: Tensor, a: Tensor, b: Tensor, beta: float, alpha: float, precision: str) -> None:
        product = alpha * (a.double() @ b.double()).float()
        out.copy_(product if beta == 0 else out + product)

    monkeypatch.setattr(gemm, "vendor", vendor)
    monkeypatch.setattr(configs, "vendor_products", lambda device, dtype: True)


@pytest.mark.parametrize("options", [{}, {"stats": True}, {"negatives_only": True}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_library_s_scores_give_the_same(
    dtype: torch.dtype, options: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make(200, 140, 20, dtype)
    own = pair_sums(sigmoid.add_pairs, case, ask(**options))
    monkeypatch.setattr(configs, "WORKSPACE", 128 * 128 * (dtype.itemsize + 4))
    monkeypatch.setattr(configs, "VENDOR_SCORES", (dtype,))
    with_vendor(monkeypatch)
    sizes = []
    put = sigmoid.put_scores
    monkeypatch.setattr(sigmoid, "put_scores", lambda out, *sides: (sizes.append(out.shape), put(out, *sides)))
    assert_like(pair_sums(sigmoid.add_pairs, case, ask(**options)), own, case)
    assert len(sizes) > 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_vendor_products_get_the_same_operands(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make(270, 140, 20, dtype)
    monkeypatch.setattr(configs, "WORKSPACE", 128 * 128 * dtype.itemsize)
    own = run(case)

    with_vendor(monkeypatch)
    monkeypatch.setattr(configs, "VENDOR_SCORES", ())
    assert_all_same(run(case), own, terms=terms(case))  # also the 16-bit operands are the same


def test_the_library_s_precision_is_set_for_one_product_alone() -> None:
    matmul: Any = torch.backends.cuda.matmul
    name = "fp32_precision" if hasattr(matmul, "fp32_precision") else "allow_tf32"
    before = getattr(matmul, name)
    with gemm.float32_products("tf32"):
        assert getattr(matmul, name) in ("tf32", True)
    assert getattr(matmul, name) == before


def test_the_library_takes_16_bits_where_its_version_is_known_to(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(torch.version, "hip", None)
    for version, yes in (("2.10.0", False), ("2.11.0+cu130", True), ("3.0.1", True)):
        monkeypatch.setattr(torch, "__version__", version)
        assert configs.vendor_products(gpu, torch.bfloat16) is yes
        assert configs.vendor_products(gpu, torch.float32)
    assert not configs.vendor_products(torch.device("cpu"), torch.float32)


class Count(TorchDispatchMode):
    """Names of the operators that would launch a kernel on a GPU."""

    FREE = (
        "empty",
        "new_empty",
        "view",
        "slice",
        "select",
        "detach",
        "alias",
        "as_strided",
        "t.",
        "transpose",
        "unsqueeze",
        "reshape",
    )

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__
        if not name.startswith(self.FREE):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def test_one_block_takes_five_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    case = diagonal(make(64, 64, 32, torch.bfloat16))._replace(row_weight=NONE)
    launched: list[str] = []
    monkeypatch.setattr(configs, "launch", lambda kernel, *rest: launched.append(kernel.__name__))
    with Count() as count:
        pair_sums(sigmoid.add_pairs, case, ask(ids=False))
    assert launched == ["sigmoid_offsets", "sigmoid_tile", "sigmoid_finish", "accumulate", "accumulate"]
    assert count.names == []


def test_a_loss_takes_at_most_twelve_launches_and_its_gradients_thirteen(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the batch of the paper, all operators counted."""
    x, y = (Gaussian(*(t.detach().requires_grad_() for t in gaussian(256, 32, seed, torch.float32))) for seed in (1, 2))
    scale, bias = (torch.tensor(value, requires_grad=True) for value in (10.0, -10.0))
    launched: list[str] = []
    monkeypatch.setattr(configs, "launch", lambda kernel, *rest: launched.append(kernel.__name__))
    with Count() as count:
        loss = ppcl_loss(x, y, scale, bias, backend="triton")
        forward = len(launched) + len(count.names)
        assert launched[:2] == ["half_trace_kernel", "half_trace_kernel"]
        assert 7 < forward <= 12, launched + count.names
        loss.backward()
    backward = len(launched) + len(count.names) - forward
    assert launched[-2:] == ["half_trace_kernel", "half_trace_kernel"]
    assert backward <= 13, count.names


def test_the_same_bits_twice() -> None:
    case = make(70, 150, 40, torch.bfloat16)
    for a, b in zip(run(case), run(case), strict=True):
        assert torch.equal(a, b)


def test_tf32_is_passed_on_and_close() -> None:
    case = make(40, 50, 16, torch.float32)
    got = pair_sums(sigmoid.add_pairs, case, ask(precision="tf32"))
    # tf32 has float16's eps: a score errs by two of them, and logits are 12 times as large; few sums see them all alike
    assert_all_same(got, pair_sums(sigmoid.add_pairs, case, ask()), terms=8, dtype=torch.float16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_half_the_trace(dtype: torch.dtype) -> None:
    logvar = (torch.randn(7, 300, generator=torch.Generator().manual_seed(0)) * 3).to(DEVICE, dtype)
    logvar[0, :3] = torch.tensor([-200.0, -103.0, 5.0])
    logvar[1, 0] = float("inf")
    z = gemm.FusedGaussian(logvar, logvar)
    rows, grad = z.half_trace, z.half_trace_gradient(torch.ones(7, device=DEVICE))
    want = -0.5 * logvar.double().exp()
    # 2^(x log2 e) inherits the rounding of an exponent of up to 1.44 |x|
    slip = bound(torch.float32, 1) * (1.5 * logvar.double().abs() + 4)
    finite = want.isfinite()
    assert torch.equal(grad.double()[~finite], want[~finite])
    assert ((grad.double() - want).abs() <= slip * want.abs() + 2.0**-126)[finite].all()
    # no cancellation: a sum errs as its terms do, and by the roundings of its partial sums
    whole = finite.all(1)
    slack = (slip * want.abs()).sum(1) + bound(torch.float32, likely(300)) * want.sum(1).abs()
    assert ((rows.double() - want.sum(1)).abs() <= slack)[whole].all()
    assert rows[~whole].tolist() == [-torch.inf]
    assert torch.equal(z.half_trace_gradient(torch.full((7,), 2.0, device=DEVICE)), 2 * grad)
    assert z.rows(slice(0)).half_trace.shape == (0,)


def test_it_agrees_with_the_chunked_backend() -> None:
    case = make(30, 40, 16, torch.float32)
    assert_like(
        pair_sums(sigmoid.add_pairs, case, ask(stats=True)), pair_sums(chunked.add_pairs, case, ask(stats=True)), case
    )
