"""Losses over pairs: every score x objective x backend against the dense truth and against finite differences."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prolap_kernels import (
    Gaussian,
    infonce_loss,
    mask_repulsive_loss,
    pairwise_loss,
    ppcl_loss,
)
from prolap_kernels.backends.chunked import pairs as chunked
from prolap_kernels.scores import BILINEAR
from tests.kernels.common import (
    ID_CASES,
    PAIRS,
    as_float64,
    gaussian,
    ids,
    pair_inputs,
    pair_loss,
    value_and_grads,
)
from tests.tolerances import assert_as_exact_as, assert_near, assert_same, likely

LIFT_NAMES = [score.name for score in BILINEAR]
TERMS = 100
"""Roundings in float64 here: sums of up to 7 rows, 7 columns and 6 dimensions, and 10 operations or so on each of their terms."""


@pytest.mark.parametrize("backend", ["chunked", "reference"])
@pytest.mark.parametrize(("score", "objective"), PAIRS)
def test_gradcheck(score: str, objective: str, backend: str) -> None:
    inputs = pair_inputs()
    assert torch.autograd.gradcheck(pair_loss(score, objective, "several positives", backend=backend), inputs)


@pytest.mark.parametrize("case", ID_CASES)
@pytest.mark.parametrize("objective", ["sigmoid", "softmax"])
@pytest.mark.parametrize("workspace", [1, 500, 64 << 20])
def test_chunked_is_the_dense_truth_for_all_ids_and_blocks(
    objective: str, case: str, workspace: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(chunked.WORKSPACE, "cpu", workspace)
    inputs = pair_inputs()
    got = value_and_grads(pair_loss("csd", objective, case, backend="chunked"), inputs)
    want = value_and_grads(pair_loss("csd", objective, case, backend="reference"), inputs)
    for a, b in zip(got, want, strict=True):
        assert_same(a, b, terms=TERMS)


@pytest.mark.parametrize("objective", ["sigmoid", "softmax"])
def test_the_dense_truth_is_the_textbook(objective: str) -> None:
    x, y = gaussian(4, 3, 1), gaussian(4, 3, 2)
    logit = 3 * (x.mean @ y.mean.T)
    if objective == "sigmoid":
        sign = 2 * torch.eye(4, dtype=torch.float64) - 1
        want = (1 + (-sign * (logit - 2)).exp()).log().sum() / 4
        got = pairwise_loss(x, y, score="dot", scale=3.0, bias=-2.0, backend="reference")
    else:
        target = torch.arange(4)
        want = (
            torch.nn.functional.cross_entropy(logit, target) + torch.nn.functional.cross_entropy(logit.T, target)
        ) / 2
        got = infonce_loss(x, y, 3.0, backend="reference")
    assert_same(got, want, terms=TERMS)


def test_softmax_averages_log_probabilities_over_several_positives() -> None:
    x, y = gaussian(5, 3, 1), gaussian(4, 3, 2)
    x_id, y_id = ids("several positives")
    p = (2 * x.mean @ y.mean.T).log_softmax(1)
    q = (2 * x.mean @ y.mean.T).log_softmax(0)
    rows = [-p[i, [j for j in range(4) if y_id[j] == x_id[i]]].mean() for i in range(3)]  # ids 2 and 3 have no positive
    cols = [-q[[i for i in range(5) if y_id[j] == x_id[i]], j].mean() for j in range(4)]
    want = (sum(rows) / 3 + sum(cols) / 4) / 2
    assert_same(infonce_loss(x, y, 2.0, x_id=x_id, y_id=y_id), want, terms=TERMS)


@pytest.mark.parametrize("backend", ["chunked", "reference"])
def test_reductions(backend: str) -> None:
    x, y = gaussian(5, 3, 1), gaussian(4, 3, 2)
    x_id, y_id = ids("ignored")
    options = {"scale": 2.0, "bias": -1.0, "x_id": x_id, "y_id": y_id, "backend": backend}
    rows = pairwise_loss(x, y, reduction="none", **options)
    total = pairwise_loss(x, y, reduction="sum", **options)
    assert rows.shape == (5,)
    assert (rows[[1, 4]] == 0).all()  # ignored rows
    assert_same(rows.sum(), total, terms=TERMS)
    assert_same(pairwise_loss(x, y, reduction="rows", **options), total / 3, terms=TERMS)
    assert_same(pairwise_loss(x, y, reduction="pairs", **options), total / 9, terms=TERMS)
    negatives = pairwise_loss(x, y, reduction="sum", negatives_only=True, **options)
    mean = pairwise_loss(x, y, reduction="pairs", negatives_only=True, **options)
    assert_same(mean, negatives / 7, terms=TERMS)


def test_per_row_losses_take_any_upstream_gradient() -> None:
    inputs = pair_inputs()
    weight = torch.tensor([1.0, -2.0, 0.0, 3.0, 0.5], dtype=torch.float64)
    grads = [
        torch.autograd.grad(
            (pair_loss("csd", "sigmoid", "ignored", reduction="none", backend=b)(*inputs) * weight).sum(), inputs
        )
        for b in ("chunked", "reference")
    ]
    for a, b in zip(*grads, strict=True):
        assert_same(a, b, terms=TERMS)


@pytest.mark.parametrize("backend", ["chunked", "reference"])
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
@pytest.mark.parametrize("objective", ["sigmoid", "softmax"])
def test_an_empty_side_is_zero_with_zero_gradients(shape: tuple[int, int], objective: str, backend: str) -> None:
    inputs = pair_inputs(*shape)
    value, *grads = value_and_grads(pair_loss("csd", objective, backend=backend), inputs)
    assert value == 0
    assert all((g == 0).all() for g in grads)


@pytest.mark.parametrize("objective", ["sigmoid", "softmax"])
def test_padding_changes_nothing_even_if_it_holds_nan(objective: str) -> None:
    inputs = pair_inputs(3, 3)
    want = value_and_grads(pair_loss("csd", objective), inputs)
    nan = torch.full((2, 3), float("nan"), dtype=torch.float64)
    padded = [torch.cat([t.detach(), nan]).requires_grad_() for t in inputs[:4]] + inputs[4:]
    x_id = torch.tensor([0, 1, 2, -1, -1])

    def loss(mx, lx, my, ly, scale, bias):  # type: ignore[no-untyped-def]
        shift = bias if objective == "sigmoid" else 0.0
        x, y = Gaussian(mx, lx), Gaussian(my, ly)
        return pairwise_loss(x, y, objective=objective, scale=scale, bias=shift, x_id=x_id, y_id=x_id)

    got = value_and_grads(loss, padded)
    assert_same(got[0], want[0], terms=TERMS)
    for a, b in zip(got[1:], want[1:], strict=True):
        assert_same(a[:3] if a.dim() else a, b, terms=TERMS)
        assert not a.dim() or (a[3:] == 0).all()


@pytest.mark.parametrize("score", LIFT_NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_error_never_above_eager_torch_in_the_same_dtype(score: str, dtype: torch.dtype) -> None:
    """Gradients and loss against float64 of the same rounded inputs, beside plain eager torch in that dtype.

    2x: both round the same float32 sums in another order; plus one rounding of the result to its dtype, and what those sums of
    33 rows, 29 columns and 40 dimensions may err by where eager torch was lucky.
    """
    inputs = pair_inputs(33, 29, 40, dtype, logvar=-4.0)
    truth = value_and_grads(pair_loss(score, "sigmoid", backend="reference"), as_float64(inputs))
    eager = value_and_grads(pair_loss(score, "sigmoid", backend="reference"), inputs)
    got = value_and_grads(pair_loss(score, "sigmoid", backend="chunked"), inputs)
    assert_as_exact_as(eager, got, truth, terms=likely(33 + 29 + 40))


@pytest.mark.parametrize("logit", [-80.0, -17.0, 0.0, 17.0, 80.0])
@pytest.mark.parametrize("positive", [True, False])
def test_small_terms_are_kept_at_large_logits(logit: float, positive: bool) -> None:
    """One pair of exactly this logit: loss and derivative to float32 accuracy, where 1 + e would have rounded e away."""
    x = Gaussian(torch.ones(1, 1), torch.zeros(1, 1))
    scale = torch.tensor(1.0, requires_grad=True)
    bias = torch.tensor(logit - 1.0, requires_grad=True)
    y_id = torch.tensor([0 if positive else 1])
    value = pairwise_loss(x, x, score="dot", scale=scale, bias=bias, x_id=torch.tensor([0]), y_id=y_id)
    value.backward()
    z = torch.tensor(-logit if positive else logit, dtype=torch.float64)
    # a logit is known to its rounding; and a few of softplus itself
    assert_same(value, torch.nn.functional.softplus(z), terms=abs(logit) + 4)
    assert_same(bias.grad, (-1 if positive else 1) * z.sigmoid(), terms=abs(logit) + 4)


@pytest.mark.parametrize("logvar", [-30.0, -10.0, 0.0, 20.0])
def test_extreme_variances_stay_finite(logvar: float) -> None:
    inputs = pair_inputs(4, 4, 3, torch.float32, logvar=logvar)
    got = value_and_grads(pair_loss("csd", "sigmoid"), inputs)
    truth = value_and_grads(pair_loss("csd", "sigmoid", backend="reference"), as_float64(inputs))
    assert all(torch.isfinite(t).all() for t in got)
    # logits of a size that variances alone decide, known to float32's rounding; sums over 4 + 4 rows and 3 dimensions
    assert_near(got, truth, terms=TERMS, dtype=torch.float32)


def test_infinite_logits_have_their_limits_and_nan_stays_nan() -> None:
    y = gaussian(2, 2, 2, torch.float32)
    x = gaussian(2, 2, 1, torch.float32)
    infinite = Gaussian(x.mean, torch.tensor([[200.0, 0.0], [0.0, 0.0]]))  # variance inf: logits of row 0 are -inf
    rows = pairwise_loss(infinite, y, reduction="none")
    assert rows[0] == float("inf")  # its positive pair
    assert torch.isfinite(rows[1])
    assert pairwise_loss(infinite, y, negatives_only=True, reduction="none")[0] == 0
    broken = Gaussian(torch.full((2, 2), float("nan")), x.logvar)
    assert pairwise_loss(broken, y).isnan()
    assert infonce_loss(broken, y, 1.0).isnan()


def test_a_loss_scaler_keeps_float16_gradients_of_negatives() -> None:
    x, y = gaussian(64, 16, 1, torch.float16), gaussian(64, 16, 2, torch.float16)
    loss = ppcl_loss(x, y, 1.0, -18.0)
    (loss * 65536.0).backward()
    truth = as_float64([*x, *y])
    ppcl_loss(Gaussian(*truth[:2]), Gaussian(*truth[2:]), 1.0, -18.0, backend="reference").backward()
    assert (x.mean.grad != 0).all()
    # the operands of one product and its result are rounded to float16
    assert_near([x.mean.grad.double() / 65536], [truth[0].grad], terms=1.5, dtype=torch.float16)


def test_backward_twice_gives_the_same_and_does_not_change_what_it_saved() -> None:
    inputs = pair_inputs()
    loss = pair_loss("csd", "sigmoid")(*inputs)
    first = torch.autograd.grad(loss, inputs, retain_graph=True)
    second = torch.autograd.grad(2 * loss, inputs)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(2 * a, b)


@pytest.mark.parametrize("frozen", range(6))
def test_a_frozen_side_gets_no_gradient_and_the_rest_is_unchanged(frozen: int) -> None:
    inputs = pair_inputs()
    want = value_and_grads(pair_loss("csd", "sigmoid"), inputs)[1:]
    inputs[frozen] = inputs[frozen].detach()
    live = [t for i, t in enumerate(inputs) if i != frozen]
    grads = torch.autograd.grad(pair_loss("csd", "sigmoid")(*inputs), live)
    for a, b in zip(grads, [g for i, g in enumerate(want) if i != frozen], strict=True):
        assert_same(a, b, terms=TERMS)


def test_no_gradient_is_computed_that_nobody_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    original = chunked.add_pairs

    def spy(problem, options, *rest):  # type: ignore[no-untyped-def]
        asked.append((options.need_x, options.need_y, options.need_sums))
        return original(problem, options, *rest)

    monkeypatch.setattr("prolap_kernels.backends.chunked.pairs.add_pairs", spy)
    x, y = gaussian(3, 2, 1), gaussian(3, 2, 2)
    with torch.no_grad():
        ppcl_loss(x, y, 1.0, 0.0)
    ppcl_loss(x.detach(), y.detach(), 1.0, 0.0)
    pairwise_loss(x.mean, y.mean.detach(), score="dot")
    assert asked == [(False, False, False), (False, False, False), (True, False, False)]


def test_strided_inputs() -> None:
    wide = gaussian(6, 8, 1)
    tall = Gaussian(wide.mean.T, wide.logvar.T)  # [8, 6], columns contiguous
    sliced = Gaussian(wide.mean[::2, 1:7], wide.logvar[::2, 1:7])
    contiguous = [Gaussian(z.mean.contiguous(), z.logvar.contiguous()) for z in (tall, sliced)]
    assert_same(ppcl_loss(tall, sliced, 2.0, -1.0), ppcl_loss(*contiguous, 2.0, -1.0), terms=TERMS)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 2**31), st.sampled_from(["sigmoid", "softmax"]))
def test_permuting_rows_permutes_gradients(n: int, m: int, seed: int, objective: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    x_id, y_id = (torch.randint(-1, 4, (k,), generator=generator) for k in (n, m))
    order_x, order_y = torch.randperm(n, generator=generator), torch.randperm(m, generator=generator)
    x, y = gaussian(n, 3, seed + 1), gaussian(m, 3, seed + 2)

    def run(a: Gaussian, b: Gaussian, a_id: torch.Tensor, b_id: torch.Tensor) -> list[torch.Tensor]:
        loss = pairwise_loss(a, b, objective=objective, scale=3.0, x_id=a_id, y_id=b_id)
        return [loss.detach(), *torch.autograd.grad(loss, [*a, *b])]

    plain = run(x, y, x_id, y_id)
    moved = run(x.rows(order_x), y.rows(order_y), x_id[order_x], y_id[order_y])
    assert_same(moved[0], plain[0], terms=TERMS, scale=1.0)
    for got, want, order in zip(moved[1:], plain[1:], (order_x, order_x, order_y, order_y), strict=True):
        assert_same(got, want[order], terms=TERMS, scale=1.0)


def test_errors_of_the_mask_repulsive_loss_name_its_own_arguments() -> None:
    masked, others = (Gaussian(torch.zeros(n, 8), torch.zeros(n, 8)) for n in (4, 5))
    with pytest.raises(ValueError, match=r"masked_id must be of shape \[4\], got \[5\]"):
        mask_repulsive_loss(masked, others, 1.0, 0.0, masked_id=torch.arange(5), other_id=torch.arange(5))
    with pytest.raises(ValueError, match="others must have masked's 8 dimensions, got 7"):
        mask_repulsive_loss(masked, Gaussian(torch.zeros(5, 7), torch.zeros(5, 7)), 1.0, 0.0)
    with pytest.raises(TypeError, match="masked must be a Gaussian"):
        mask_repulsive_loss(masked.mean, others, 1.0, 0.0)  # type: ignore[arg-type]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**31))
def test_repulsion_is_the_loss_without_its_positives(n: int, m: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x_id, y_id = (torch.randint(0, 3, (k,), generator=generator) for k in (n, m))
    x, y = gaussian(n, 3, seed + 1), gaussian(m, 3, seed + 2)
    logit = 2 * torch.stack([x.mean @ y.mean.T - 0.5 * (x.var.sum(1)[:, None] + y.var.sum(1))])[0] - 1
    want = torch.where(x_id[:, None] == y_id, torch.zeros_like(logit), torch.nn.functional.softplus(logit)).sum() / n
    got = mask_repulsive_loss(x, y, 2.0, -1.0, masked_id=x_id, other_id=y_id)
    assert_same(got, want, terms=TERMS)


def test_the_same_inputs_give_the_same_bits() -> None:
    inputs = pair_inputs(50, 40, 30, torch.float32)
    first, second = (value_and_grads(pair_loss("csd", "sigmoid"), inputs) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
