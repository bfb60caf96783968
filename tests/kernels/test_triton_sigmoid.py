"""The lift engine against float64, within bounds that follow from rounding: nothing here is tuned."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from prolap_kernels.backends import blocks
from prolap_kernels.backends.problem import PairOptions
from prolap_kernels.backends.problem import PairProblem as Case
from prolap_kernels.backends.triton import configs, sigmoid
from tests.kernels.common import pair_sums
from tests.tolerances import assert_as_exact_as, assert_same, likely

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EPS = 2.0**-24
# Relative error of one stored gradient. A GPU rounds to bfloat16, the interpreter cuts off: twice the error.
STORED = {torch.float32: EPS, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8 if DEVICE == "cuda" else 2.0**-7}
DTYPES = list(STORED)
NONE = torch.zeros(0, device=DEVICE)


class Truth(NamedTuple):
    """The six outputs, by the definition."""

    loss: Tensor
    dphi_x: Tensor
    dphi_y: Tensor
    row_sum: Tensor
    col_sum: Tensor
    row_dot: Tensor


def make(
    n: int, m: int, k: int, dtype: torch.dtype, *, ids: int = 6, offsets: bool = True, scale: float = 12.0
) -> Case:
    """Unit rows; ids from -1 to ids - 1, so some are ignored and several agree."""
    draw = torch.Generator().manual_seed(n * 1009 + m * 31 + k)
    x, y = (torch.nn.functional.normalize(torch.randn(rows, k, generator=draw), dim=1) for rows in (n, m))
    x_id, y_id = (torch.randint(-1, ids, (rows,), generator=draw) for rows in (n, m))
    alpha, beta = (-torch.rand(rows, generator=draw) for rows in (n, m)) if offsets else (NONE, NONE)
    weight = torch.rand(n, generator=draw) * 3 - 1 if offsets else NONE
    scalars = torch.tensor(scale), torch.tensor(-5.0)
    return Case(*(t.to(DEVICE) for t in (x.to(dtype), y.to(dtype), alpha, beta, *scalars, x_id, y_id, weight)))


def evaluate(case: Case, dtype: torch.dtype, negatives_only: bool = False) -> tuple[Truth, Truth]:
    """The definition, eagerly in `dtype`, and for float64 the bounds on what rounding may do to each output."""
    x, y, alpha, beta, scale, bias, w = (
        t.to(dtype) for t in (*case[:6], case.row_weight if case.row_weight.numel() else torch.ones(1, device=DEVICE))
    )
    offset = (alpha[:, None] if alpha.numel() else 0.0) + (beta[None, :] if beta.numel() else 0.0)
    s = x @ y.T + offset
    logit = scale * s + bias
    positive = case.x_id[:, None] == case.y_id[None, :]
    counted = (case.x_id >= 0)[:, None] & (case.y_id >= 0)[None, :] & ~(positive & negatives_only)
    sign = torch.where(positive, -1.0, 1.0).to(dtype)
    loss = torch.where(counted, torch.nn.functional.softplus(sign * logit, threshold=1e4), 0.0)
    g = torch.where(counted, sign * torch.sigmoid(sign * logit) * w.reshape(-1, 1), 0.0)
    gs = torch.where(g == 0, 0.0, g * s)
    truth = Truth(loss.sum(1), g @ y, g.T @ x, g.sum(1), g.sum(0), gs.sum(1))

    # every logit is off by at most `shift`, so every g by that much of itself; sums add a rounding per term
    size, stored = sum(case.phi_x.shape) + len(y) + 8, STORED[case.phi_x.dtype]
    reach = x.abs() @ y.abs().T + (offset.abs() if offsets_present(case) else 0.0)
    shift = size * EPS * (scale * reach + bias.abs())
    slip = g.abs() * (shift + size * EPS)
    lost = slip + g.abs() * stored
    if case.phi_x.dtype == torch.float16:  # below the smallest subnormal g is lost
        lost = lost + 2.0**-40 * w.abs().amax() * counted
    gap = (loss * size * EPS) + torch.where(counted, torch.sigmoid(sign * logit), 0.0) * shift
    bounds = Truth(
        gap.sum(1), lost @ y.abs(), lost.T @ x.abs(), slip.sum(1), slip.sum(0),
        (slip * s.abs() + g.abs() * size * EPS * reach).sum(1),
    )  # fmt: skip
    return truth, Truth(*(b + 1e-37 for b in bounds))


def offsets_present(case: Case) -> bool:
    return case.alpha.numel() > 0


def ask(
    negatives_only: bool = False, need: tuple[bool, bool, bool] = (True, True, True), *, ids: bool = True,
    stats: bool = False, precision: str = "ieee",
) -> PairOptions:  # fmt: skip
    return PairOptions("dot", "sigmoid", "triton", negatives_only, ids, precision, stats, *need)


def run(case: Case, negatives_only: bool = False, need: tuple[bool, bool, bool] = (True, True, True)) -> Truth:
    return Truth(*pair_sums(sigmoid.add_pairs, case, ask(negatives_only, need))[:6])


def check(case: Case, negatives_only: bool = False) -> None:
    truth, bounds = evaluate(case, torch.float64, negatives_only)
    for name, got, want, bound in zip(Truth._fields, run(case, negatives_only), truth, bounds, strict=True):
        assert got.dtype == torch.float32, name
        assert got.shape == want.shape, name
        excess = ((got.double() - want).abs() / bound).max()
        assert excess <= 1, f"{name}: {excess:.2f} times the bound"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 5, 7), (5, 1, 16), (131, 70, 77), (40, 150, 33)])
def test_matches_float64_on_ragged_shapes(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    check(make(*shape, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_without_offsets_and_weights(dtype: torch.dtype) -> None:
    check(make(33, 47, 24, dtype, offsets=False))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("negatives_only", [False, True])
def test_diagonal_positives_and_negatives_only(dtype: torch.dtype, negatives_only: bool) -> None:
    case = make(40, 40, 16, dtype)
    ids = torch.arange(40, device=DEVICE)
    check(case._replace(x_id=ids, y_id=ids), negatives_only)


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_positive_at_all_and_large_ids(dtype: torch.dtype) -> None:
    case = make(20, 30, 8, dtype)
    # ids that differ only above bit 32
    check(case._replace(x_id=torch.full_like(case.x_id, 7), y_id=torch.full_like(case.y_id, 7 + (1 << 32))))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_many_blocks_sum_to_the_same(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make(270, 200, 20, dtype)
    monkeypatch.setattr(configs, "WORKSPACE", 128 * 128 * dtype.itemsize)
    unit = configs.BILINEAR["small", dtype][:2]
    assert blocks.block_shape(270, 200, configs.WORKSPACE // dtype.itemsize, unit=unit) == (128, 128)
    check(case)


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_worse_than_eager_in_the_same_dtype(dtype: torch.dtype) -> None:
    case = make(60, 90, 64, dtype)
    truth, _ = evaluate(case, torch.float64)
    eager, _ = evaluate(case, dtype)
    # float32: the same sums in another order, of logits of size 12; the interpreter cuts bfloat16 off: twice the error
    assert_as_exact_as(eager, run(case), truth, terms=12 + likely(60 + 90 + 64))


@pytest.mark.parametrize("dtype", DTYPES)
def test_strided_inputs(dtype: torch.dtype) -> None:
    case = make(24, 36, 32, dtype)
    spread = torch.full((48, 64), float("nan"), dtype=dtype, device=DEVICE)
    spread[::2, :32] = case.phi_x
    turned = case.phi_y.T.contiguous().T
    crooked = torch.cat([torch.zeros(1, device=DEVICE), case.alpha])[1:]  # off the alignment
    strided = case._replace(
        phi_x=spread[::2, :32], phi_y=turned, alpha=crooked, x_id=case.x_id.repeat_interleave(2)[::2]
    )
    assert strided.phi_x.stride(0) == 128
    for got, want in zip(run(strided), run(case), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("need", [(a, b, c) for a in (False, True) for b in (False, True) for c in (False, True)])
def test_only_what_is_needed(need: tuple[bool, bool, bool]) -> None:
    case = make(30, 20, 16, torch.float16)
    full, got = run(case), run(case, need=need)
    wanted = (True, need[0], need[1], need[2], need[2], need[2])
    for name, a, b, asked in zip(Truth._fields, got, full, wanted, strict=True):
        assert torch.equal(a, b) if asked else a.numel() == 0, name


@pytest.mark.parametrize(("n", "m"), [(0, 4), (4, 0), (0, 0)])
def test_empty_sides_give_zeros(n: int, m: int) -> None:
    got = run(make(n, m, 9, torch.float32))
    for t, shape in zip(got, [(n,), (n, 9), (m, 9), (n,), (m,), (n,)], strict=True):
        assert t.shape == shape
        assert not t.any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("logit", [-80.0, -18.0, 80.0])
def test_extreme_logits_keep_their_relative_accuracy(dtype: torch.dtype, logit: float) -> None:
    case = make(6, 5, 16, dtype, offsets=False)
    case = case._replace(phi_x=torch.zeros_like(case.phi_x), bias=case.bias * 0 + logit)
    got, (truth, bounds) = run(case), evaluate(case, torch.float64)
    # exp(-|logit|) inherits the rounding of |logit| log2(e)
    allowed = 4 * EPS * (abs(logit) + 8)
    for want, have in ((truth.loss, got.loss), (truth.row_sum, got.row_sum), (truth.col_sum, got.col_sum)):
        assert torch.all((have.double() - want).abs() <= allowed * want.abs())
    if logit >= -18:
        # a float16 gradient of e^-18 is stored, not flushed
        assert torch.all((got.dphi_x - truth.dphi_x).abs() <= bounds.dphi_x)
        assert got.dphi_x[case.x_id >= 0].any()


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_infinite_scores_take_their_limits() -> None:
    case = make(4, 3, 16, torch.float32)
    ids = torch.tensor([0, 1, 2, 3], device=DEVICE)
    alpha = torch.tensor([float("-inf"), 0.0, float("inf"), float("-inf")], device=DEVICE)
    case = case._replace(alpha=alpha, x_id=ids, y_id=ids[:3], row_weight=NONE)
    got = run(case)
    inf = float("inf")
    assert got.loss[[0, 2, 3]].tolist() == [inf, inf, 0.0]  # missed positive, two wrong negatives, all right
    assert got.row_sum[[0, 2, 3]].tolist() == [-1.0, 2.0, 0.0]
    assert got.row_dot[[0, 2, 3]].tolist() == [inf, inf, 0.0]
    assert torch.isfinite(got.dphi_x).all()


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_in_gives_nan_out_and_stays_in_its_row(dtype: torch.dtype) -> None:
    case = make(9, 8, 16, dtype)
    case = case._replace(x_id=case.x_id.clamp_min(0), y_id=case.y_id.clamp_min(0))
    case.phi_x[4, 3] = float("nan")
    got = run(case)
    rest = [0, 1, 2, 3, 5, 6, 7, 8]
    for t in (got.loss, got.dphi_x[:, 0], got.row_sum, got.row_dot):
        assert t[4].isnan()
        assert not t[rest].isnan().any()
    assert got.col_sum.isnan().all()
    assert got.dphi_y.isnan().all()


def test_ignored_rows_add_nothing() -> None:
    case = make(50, 40, 16, torch.float32)
    i, j = case.x_id >= 0, case.y_id >= 0
    kept = Case(
        case.phi_x[i],
        case.phi_y[j],
        case.alpha[i],
        case.beta[j],
        *case[4:6],
        case.x_id[i],
        case.y_id[j],
        case.row_weight[i],
    )
    whole, part = run(case), run(kept)
    masks = (i, i, j, i, j, i)
    for a, b, mask in zip(whole, part, masks, strict=True):
        assert_same(a[mask], b, terms=12 + likely(50 + 40 + 16))
        assert not a[~mask].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_nothing_depends_on_uninitialised_memory(dtype: torch.dtype) -> None:
    case = make(35, 21, 20, dtype)
    plain = run(case)
    torch.use_deterministic_algorithms(True)  # fills what torch.empty returns with NaN
    try:
        poisoned = run(case)
    finally:
        torch.use_deterministic_algorithms(False)
    for a, b in zip(plain, poisoned, strict=True):
        assert torch.equal(a, b)


def test_weights_of_any_size_fit_float16() -> None:
    case = make(20, 20, 16, torch.float16)
    large = case._replace(row_weight=case.row_weight * 2.0**60)
    for name in ("dphi_x", "dphi_y", "row_sum", "col_sum", "row_dot"):
        assert torch.equal(getattr(run(large), name), getattr(run(case), name) * 2.0**60), name


@pytest.mark.parametrize(("n", "m"), [(1, 1), (65536, 65536), (300, 1_000_000), (7001, 13), (100_000, 20_000)])
def test_blocks_are_bounded_whole_tiles(n: int, m: int) -> None:
    for (_, dtype), tile in configs.BILINEAR.items():
        height, breadth = blocks.block_shape(n, m, configs.WORKSPACE // dtype.itemsize, unit=tile[:2])
        assert height % tile.m == breadth % tile.n == 0
        assert height * breadth * dtype.itemsize <= configs.WORKSPACE
        if min(n, m) > 10_000:
            assert 0.5 < height / breadth < 2


def test_tiles_fit_the_padding_of_g() -> None:
    for (kind, dtype), lift in configs.BILINEAR.items():
        inner = configs.ACCUMULATE["large" if kind in ("hopper", "blackwell") else kind, dtype]
        assert lift.m % inner.k == lift.n % inner.k == 0
        assert configs.G_SIDE % lift.m == configs.G_SIDE % lift.n == configs.G_SIDE % inner.m == 0


def test_tensors_on_the_cpu_are_refused_outside_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configs, "interpreted", lambda kernel: False)
    case = Case(*(t.cpu() for t in make(2, 2, 4, torch.float32)[:9]))
    with pytest.raises(ValueError, match="needs tensors on a GPU, got cpu"):
        run(case)
