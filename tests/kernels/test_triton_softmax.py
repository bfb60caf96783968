"""The softmax objective's kernels against float64, within bounds that follow from rounding: nothing here is tuned."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from prolap_kernels import reference
from prolap_kernels.backends import blocks
from prolap_kernels.backends.chunked import pairs as chunked
from prolap_kernels.backends.problem import PairProblem, PairSums
from prolap_kernels.backends.triton import configs, softmax
from prolap_kernels.objectives import OBJECTIVES
from tests.kernels.common import pair_sums
from tests.kernels.softmax_truth import (
    ALL,
    DEVICE,
    DTYPES,
    EPS,
    NONE,
    STORED,
    check,
    evaluate,
    make,
    run,
    widened,
    with_ids,
)
from tests.tolerances import assert_as_exact_as, assert_same, likely


def test_the_truth_here_is_the_chunked_one() -> None:
    case = make(40, 30, 16, torch.float32)
    for ours, theirs in zip(evaluate(case)[0], pair_sums(chunked.add_pairs, widened(case), ALL), strict=False):
        assert_same(ours, theirs, terms=12 + 40 + 30 + 16)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 5, 7), (5, 1, 16), (131, 70, 77), (40, 150, 33)])
def test_matches_float64_on_ragged_shapes(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    check(make(*shape, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_diagonal_needs_no_ids(dtype: torch.dtype) -> None:
    case = make(150, 140, 24, dtype, offsets=False)
    case = with_ids(case, torch.arange(150), torch.arange(140))
    plain = ALL._replace(ids_given=False)
    check(case, plain)
    for a, b in zip(run(case), run(case, plain), strict=True):
        assert torch.equal(a, b)


ID_CASES = {
    "rows without positives": ([0, 1, 2, 3, 4], [1, 9, 4, 8]),
    "no positive": ([0, 1, 2, 3, 4], [5, 6, 7, 8]),
    "all ignored": ([-1] * 5, [0, 1, 2, 3]),
    "all positive": ([7] * 5, [7] * 4),
    "ignored on both sides with equal ids": ([-1, -2, 0, 1, 1], [-1, -2, 0, 1]),
    "differing above bit 32": ([0, 1 << 32, 1 << 33, 3, 4], [0, 1 << 33, 1, 2]),
}


@pytest.mark.parametrize("name", ID_CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_which_pairs_count(name: str, dtype: torch.dtype) -> None:
    case = with_ids(make(5, 4, 16, dtype), *ID_CASES[name])
    check(case)
    if name in ("no positive", "all ignored"):
        assert not any(t.any() for t in run(case))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_many_blocks_sum_to_the_same(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make(270, 200, 20, dtype, ids=100)
    monkeypatch.setattr(configs, "WORKSPACE", 128 * 128 * dtype.itemsize)
    assert blocks.block_shape(
        270, 200, configs.WORKSPACE // dtype.itemsize, unit=softmax.TILES["small", dtype][:2]
    ) == (128, 128)
    check(case)


def test_library_products_take_the_factor_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make(270, 200, 20, torch.float32, ids=100)
    monkeypatch.setattr(configs, "WORKSPACE", 128 * 128 * 4)
    ours = run(case)
    monkeypatch.setattr(configs, "vendor_products", lambda device, dtype: True)
    check(case)
    assert torch.equal(run(case).row, ours.row)
    alone = run(case, ALL._replace(need_x=False))  # nothing of size 0 is scaled
    assert torch.equal(alone.dphi_y, run(case).dphi_y)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [12.0, 100.0])
def test_no_worse_than_eager_in_the_same_dtype(dtype: torch.dtype, scale: float) -> None:
    case = make(60, 90, 64, dtype, scale=scale, ids=40)
    truth, _ = evaluate(case)
    eager, _ = evaluate(case, dtype)
    # float32: the same sums in another order, of logits of this size; p is a quotient of two of their exponentials
    assert_as_exact_as(eager, run(case)[:6], truth, terms=2 * scale + likely(60 + 90 + 64))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_logits_from_minus_80_to_80(dtype: torch.dtype, sign: float) -> None:
    """Rows and columns whose largest logits lie 160 apart share a tile: one shift for all of it would flush half of them."""
    case = make(48, 40, 16, dtype, offsets=False, scale=sign * 100.0)
    level = torch.linspace(-0.7, 0.7, 48, device=DEVICE)
    case = case._replace(alpha=level, beta=level[:40].flip(0) * 0.1)
    case = with_ids(case, torch.arange(48), torch.arange(40))
    check(case)
    logit = case.scale * (case.phi_x.float() @ case.phi_y.float().T + level[:, None])
    assert logit.max() > 70
    assert logit.min() < -70
    swapped = PairProblem(*(case[i] for i in (1, 0, 3, 2, 4, 5, 7, 6)), case.row_weight)  # the same of the columns
    check(swapped)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("depth", [55.0, 61.0, 140.0])
def test_columns_far_below_a_tile_that_holds_no_positive(depth: float, dtype: torch.dtype) -> None:
    """Their sums are taken with the rows' exponentials as long as float32 can; gradients show each pair on its own."""
    case = make(160, 32, 32, dtype, scale=1.0)._replace(phi_y=torch.eye(32, dtype=dtype, device=DEVICE))
    alpha = torch.cat([torch.linspace(0, -60, 128), torch.zeros(32)]).to(DEVICE)
    beta = torch.full((32,), -depth, device=DEVICE)
    beta[5] = 0.0
    check(with_ids(case._replace(alpha=alpha, beta=beta), [99] * 128 + list(range(32)), list(range(32))))


@pytest.mark.parametrize("dtype", DTYPES)
def test_solved_pairs_keep_their_relative_accuracy(dtype: torch.dtype) -> None:
    """Where p rounds to 1 the loss and 1 - p are sums of small probabilities, not differences from 1."""
    size = 16
    eye = torch.eye(size, device=DEVICE, dtype=dtype)
    case = make(size, size, size, dtype, offsets=False)._replace(
        phi_x=eye, phi_y=eye, scale=torch.tensor(18.0, device=DEVICE)
    )
    case = with_ids(case, torch.arange(size), torch.arange(size))
    got = run(case)
    rest = (size - 1) * torch.tensor(-18.0).double().exp()
    want = torch.log1p(rest)
    assert (got.loss.double().cpu() - want).abs() <= 32 * EPS * want
    slope = rest / (1 + rest) / size  # w_x = w_y = 1 / (2 size): both directions together
    # float16 keeps 2^-38 of the largest weight, 1e-4 of this slope
    within = STORED[dtype] + 32 * EPS + (2.0**-39 / (2 * size) / slope if dtype == torch.float16 else 0.0)
    assert ((got.dphi_x.diagonal().double().cpu() + slope).abs() <= within * slope).all()
    assert (got.dphi_x - got.dphi_x.diagonal().diag() > 0).sum() == size * (size - 1)


def test_small_float16_gradients_are_not_flushed() -> None:
    """Probabilities down to 2^-38 leave a trace; stored as they are, float16 would lose them from 6e-8 / weight on."""
    case = make(64, 64, 16, torch.float16, offsets=False)
    zero, eye = torch.zeros_like(case.phi_x), torch.eye(64, 16, dtype=torch.float16, device=DEVICE)
    beta = torch.zeros(64, device=DEVICE)
    beta[0] = 20.0
    case = case._replace(phi_x=zero, phi_y=eye, alpha=beta * 0, beta=beta, scale=torch.tensor(1.0, device=DEVICE))
    case = with_ids(case, torch.zeros(64), [0] + [1] * 63)
    got, (truth, _) = run(case), evaluate(case)
    assert truth.dphi_x[0, 1].abs() < 2.0**-24
    # stored in float16, from 2^-38 of the largest weight on
    assert (
        (got.dphi_x.double() - truth.dphi_x).abs() <= 2 * STORED[torch.float16] * truth.dphi_x.abs() + 2.0**-38
    ).all()
    assert got.dphi_x[0, 1] > 0


@pytest.mark.parametrize("need", [(a, b, c) for a in (False, True) for b in (False, True) for c in (False, True)])
def test_only_what_is_needed(need: tuple[bool, bool, bool]) -> None:
    case = make(30, 20, 16, torch.float16)
    full, got = run(case), run(case, ALL._replace(need_x=need[0], need_y=need[1], need_sums=need[2]))
    wanted = (True, need[0], need[1], need[2], need[2], need[2], False, False, False)
    for name, a, b, asked in zip(PairSums._fields, got, full, wanted, strict=True):
        assert torch.equal(a, b) if asked else a.numel() == 0, name


@pytest.mark.parametrize("grads", [False, True])
@pytest.mark.parametrize("shape", [(33, 21), (150, 140)])
def test_statistics(shape: tuple[int, int], grads: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configs, "WORKSPACE", 128 * 128 * 4)
    case = make(*shape, 16, torch.float32, ids=30, scale=20.0)
    got = run(case, ALL._replace(stats=True, need_x=grads, need_y=grads, need_sums=grads)).stats
    wide = widened(case)
    logit = wide.scale * (wide.phi_x @ wide.phi_y.T + wide.alpha[:, None] + wide.beta)
    want = reference.pair_stats(OBJECTIVES["softmax"], logit, case.x_id, case.y_id, False)
    # sums of logits over a row, which cancel
    assert_same(got[:2], want[:2], terms=likely(16 + shape[1]), scale=float(logit.abs().sum(1).max()))
    assert torch.equal(got[2:].double(), want[2:])
    assert want[3].any()


@pytest.mark.parametrize(("n", "m"), [(0, 4), (4, 0), (0, 0)])
def test_empty_sides_give_zeros(n: int, m: int) -> None:
    got = run(make(n, m, 9, torch.float32), ALL._replace(stats=True))
    for t, shape in zip(got, [(1,), (n, 9), (m, 9), (n,), (m,), (n,), (0,), (0,), (4, n)], strict=True):
        assert t.shape == shape
        assert not t.any()


@pytest.mark.filterwarnings("ignore:(invalid value|All-NaN|divide by zero):RuntimeWarning")
def test_infinite_scores_take_their_limits() -> None:
    case = with_ids(make(4, 3, 16, torch.float32), [0, 1, 2, 3], [0, 1, 2])
    minus = torch.tensor([0.0, 0.0, 0.0, float("-inf")], device=DEVICE)
    got, without = (
        run(case._replace(alpha=minus)),
        run(with_ids(case._replace(alpha=minus * 0), [0, 1, 2, -1], [0, 1, 2])),
    )
    for a, b in zip(got, without, strict=True):  # a row without positives whose scores are all -inf is as if ignored
        assert_same(a, b, terms=2 * 12 + 4 + 3 + 16)
    positive = run(
        case._replace(alpha=minus.flip(0))
    )  # -inf where a positive is: no finite loss, and no finite number either
    assert not torch.isfinite(positive.loss).any()


@pytest.mark.filterwarnings("ignore:(invalid value|All-NaN|divide by zero):RuntimeWarning")
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_in_gives_nan_out(dtype: torch.dtype) -> None:
    case = make(9, 8, 16, dtype)
    case = case._replace(x_id=case.x_id.clamp_min(0), y_id=case.y_id.clamp_min(0))
    case.phi_x[4, 3] = float("nan")
    got = run(case)
    for t in (got.loss, got.dphi_x, got.dphi_y, got.row, got.col, got.dot):
        assert t.isnan().all()


def test_ignored_rows_add_nothing() -> None:
    case = make(50, 40, 16, torch.float32)
    i, j = case.x_id >= 0, case.y_id >= 0
    kept = PairProblem(
        case.phi_x[i], case.phi_y[j], case.alpha[i], case.beta[j], *case[4:6], case.x_id[i], case.y_id[j], NONE
    )
    masks = (torch.ones(1, dtype=torch.bool, device=DEVICE), i, j, i, j, i)
    for a, b, mask in zip(run(case), run(kept), masks, strict=False):
        assert_same(a[mask], b, terms=2 * 12 + likely(50 + 40 + 16))
        assert not a[~mask].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_repeats_to_the_bit_whatever_memory_holds(dtype: torch.dtype) -> None:
    case, options = make(35, 21, 20, dtype), ALL._replace(stats=True)
    plain = run(case, options)
    torch.use_deterministic_algorithms(True)  # fills what torch.empty returns with NaN
    try:
        poisoned = run(case, options)
    finally:
        torch.use_deterministic_algorithms(False)
    for a, b, c in zip(plain, run(case, options), poisoned, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_strided_inputs() -> None:
    case = make(24, 36, 32, torch.float16)
    spread = torch.full((48, 64), float("nan"), dtype=torch.float16, device=DEVICE)
    spread[::2, :32] = case.phi_x
    crooked = torch.cat([torch.zeros(1, device=DEVICE), case.alpha])[1:]  # off the alignment
    strided = case._replace(phi_x=spread[::2, :32], phi_y=case.phi_y.T.contiguous().T, alpha=crooked)
    for got, want in zip(run(strided), run(case), strict=True):
        assert torch.equal(got, want)
