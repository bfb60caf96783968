"""What the losses promise under torch's transformations; the README's support table states what this file shows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from prolap_kernels import Gaussian, hierarchical_inclusion_loss, inclusion_score, pairwise_loss, ppcl_loss, vib_loss
from prolap_kernels.backends.links import NONE, SCORE, SUM, VIB, Link, pack
from prolap_kernels.backends.problem import PairOptions
from prolap_kernels.ops.matched import matched_gradients_op, matched_rows_op
from prolap_kernels.ops.pairs import pair_gradients_op, pairs_op
from tests.kernels.common import gaussian, pair_inputs, pair_loss
from tests.tolerances import assert_near, assert_same

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
traced = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 11),
    reason="known to compile on torch 2.11; Dynamo of 2.6 cannot trace the autograd functions, and says so",
)
SECOND = "second derivatives are not implemented"


MEANS = [gaussian(5, 3, seed, torch.float32).mean.detach() for seed in range(3)]


def chain(l0: Tensor, l1: Tensor, l2: Tensor) -> Tensor:
    levels = [Gaussian(mean, logvar) for mean, logvar in zip(MEANS, (l0, l1, l2), strict=True)]
    return hierarchical_inclusion_loss(levels, scale=0.5) + vib_loss(levels[0])


LOSSES = {
    "ppcl": (pair_loss("csd", "sigmoid"), lambda: pair_inputs(dtype=torch.float32)),
    "softmax": (pair_loss("dot", "softmax"), lambda: pair_inputs(dtype=torch.float32)),
    "per row": (
        lambda *t: pair_loss("csd", "sigmoid", reduction="none")(*t).square().sum(),
        lambda: pair_inputs(dtype=torch.float32),
    ),
    "chain": (chain, lambda: [gaussian(5, 3, seed, torch.float32).logvar for seed in range(3)]),
}


@pytest.mark.parametrize("flags", [(True, True, True), (False, True, False), (False, False, False)])
@pytest.mark.parametrize(
    ("objective", "backend"), [("sigmoid", "chunked"), ("softmax", "chunked"), ("sigmoid", "triton")]
)
def test_opcheck_pairs(objective: str, backend: str, flags: tuple[bool, bool, bool]) -> None:
    x, y = gaussian(5, 3, 1, torch.float32).detach(), gaussian(4, 3, 2, torch.float32).detach()
    tensors = [*x, *y, torch.tensor(2.0), torch.tensor(-1.0), torch.arange(5), torch.arange(4), torch.zeros(0)]
    tensors = [t.to(DEVICE) for t in tensors]
    for score in ("csd", "wasserstein2", "kl"):
        options = PairOptions(score, objective, backend, False, False, "ieee", False, *flags)
        torch.library.opcheck(pairs_op, (*tensors, *options))


@pytest.mark.parametrize("score", ["csd", "dot", "csd_distance", "wasserstein2", "kl"])
@pytest.mark.parametrize("backend", ["chunked", "triton"])
def test_opcheck_gradients_of_pairs(backend: str, score: str) -> None:
    x, y = gaussian(5, 3, 1, torch.float32).detach(), gaussian(4, 3, 2, torch.float32).detach()
    scalars, ids = (torch.tensor(2.0), torch.tensor(-1.0)), (torch.arange(5) % 3 - 1, torch.arange(4))
    tensors = [t.to(DEVICE) for t in (*x, *y, *scalars, *ids)]
    options = PairOptions(score, "sigmoid", backend, False, True, "ieee", False, True, True, True)
    _, *sums, _ = pairs_op(*tensors, tensors[0].new_empty(0), *options)
    for needs in ((True,) * 5, (False, True, True, False, False)):
        arguments = (torch.tensor(0.5, device=DEVICE), *tensors[:5], *ids, *sums, score, backend, True, *needs)
        torch.library.opcheck(pair_gradients_op, tuple(t.to(DEVICE) if isinstance(t, Tensor) else t for t in arguments))


@pytest.mark.parametrize("need", [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize("per_row", [True, False])
@pytest.mark.parametrize("backend", ["chunked", "triton"])
def test_opcheck_matched_rows(backend: str, per_row: bool, need: tuple[bool, bool]) -> None:
    mean, logvar = (t.detach().to(DEVICE) for t in gaussian(9, 3, 1, torch.float32))
    valid = torch.tensor([True, False, True], device=DEVICE)
    links = [Link(kind, 0, 1, int(kind != SUM), 0.7, 0.5, 1.0, True, kind == NONE) for kind in (SUM, NONE, SCORE)]
    links.append(Link(VIB, 2, 2, 2, 0.5, 0.0, 0.0, True, False))
    call = [4, 3, 2], pack(links), backend
    torch.library.opcheck(matched_rows_op, (mean, logvar, valid, *call, per_row))
    results, means, shares = matched_rows_op(mean, logvar, valid, *call, per_row)
    g = torch.ones_like(results[0] if per_row else means)
    torch.library.opcheck(matched_gradients_op, (mean, logvar, results, shares, g, *call, *need))


@traced
@pytest.mark.parametrize("name", LOSSES)
def test_compiles_without_a_graph_break(name: str) -> None:
    loss, make = LOSSES[name]
    inputs = make()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    want = torch.autograd.grad(loss(*inputs), inputs, allow_unused=True, materialize_grads=True)
    got = torch.autograd.grad(compiled(*inputs), inputs, allow_unused=True, materialize_grads=True)
    assert any((w != 0).any() for w in want)
    for a, b in zip(got, want, strict=True):
        assert_same(a, b, terms=5 + 4 + 3)  # rows, columns, dimensions


@pytest.mark.parametrize("name", ["ppcl", "softmax", "chain"])
def test_func_grad(name: str) -> None:
    loss, make = LOSSES[name]
    inputs = make()
    want = torch.autograd.grad(loss(*inputs), inputs, allow_unused=True, materialize_grads=True)
    got = torch.func.grad(loss, argnums=tuple(range(len(inputs))))(*[t.detach() for t in inputs])
    for a, b in zip(got, want, strict=True):
        assert_same(a, b, terms=5 + 4 + 3)  # rows, columns, dimensions


@pytest.mark.parametrize("name", LOSSES)
def test_second_derivatives_raise_instead_of_being_zero(name: str) -> None:
    loss, make = LOSSES[name]
    inputs = make()
    grad = torch.autograd.grad(loss(*inputs), inputs[0], create_graph=True)[0]
    with pytest.raises(RuntimeError, match=SECOND):
        (grad.square().sum() + inputs[0].sum()).backward()


@pytest.mark.parametrize("name", ["ppcl", "chain"])
def test_nested_func_grad_raises(name: str) -> None:
    loss, make = LOSSES[name]
    inputs = make()

    def penalty(first: Tensor) -> Tensor:
        return torch.func.grad(lambda t: loss(t, *inputs[1:]))(first).square().sum()

    with pytest.raises(RuntimeError, match=SECOND):
        torch.func.grad(penalty)(inputs[0].detach())


def test_the_reference_has_second_derivatives() -> None:
    inputs = pair_inputs(3, 3, 2)
    assert torch.autograd.gradgradcheck(pair_loss("csd", "sigmoid", backend="reference"), inputs)


def test_vmap_and_forward_mode_raise() -> None:
    x, y = gaussian(3, 2, 1), gaussian(3, 2, 2)

    def loss(mean: Tensor) -> Tensor:
        return ppcl_loss(Gaussian(mean, x.logvar), y, 1.0, 0.0)

    with pytest.raises(RuntimeError, match="vmap"):
        torch.func.vmap(loss)(torch.stack([x.mean, x.mean]))
    with pytest.raises(NotImplementedError, match="jvp"):
        torch.func.jvp(loss, (x.mean.detach(),), (x.mean.detach(),))


@traced
@pytest.mark.parametrize("name", ["ppcl", "chain"])
def test_func_inside_compile_raises_instead_of_being_zero(name: str) -> None:
    loss, make = LOSSES[name]
    inputs = [t.detach() for t in make()]
    compiled = torch.compile(torch.func.grad(loss), fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match=r"torch.func transforms inside torch.compile do not work"):
        compiled(*inputs)


def test_autocast_reaches_the_product_and_nothing_else() -> None:
    x, y = gaussian(40, 32, 1, torch.float32), gaussian(40, 32, 2, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = pairwise_loss(x, y, scale=5.0, bias=-2.0)
        chained = inclusion_score(x, y)
    inside.backward()
    assert inside.dtype == torch.float32
    assert x.mean.grad.dtype == torch.float32
    rounded = (
        Gaussian(x.mean.detach().bfloat16(), x.logvar.detach()),
        Gaussian(y.mean.detach().bfloat16(), y.logvar.detach()),
    )
    assert torch.equal(inside.detach(), pairwise_loss(*rounded, scale=5.0, bias=-2.0))
    assert torch.equal(chained, inclusion_score(x, y))
    exact = gaussian(40, 32, 1), gaussian(40, 32, 2)
    # products whose operands are rounded to bfloat16, most of which cancels in a sum over 1,600 pairs
    assert_near([inside], [pairwise_loss(*exact, scale=5.0, bias=-2.0)], terms=1, dtype=torch.bfloat16)


def test_float16_under_a_gradient_scaler_trains() -> None:
    x = gaussian(32, 8, 1, torch.float32)
    y = gaussian(32, 8, 2, torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
    with torch.autocast("cpu", dtype=torch.float16):
        loss = ppcl_loss(x, y, 10.0, -10.0)
    scaler.scale(loss).backward()
    want = [t.detach().double().requires_grad_() for t in (*x, *y)]
    ppcl_loss(Gaussian(*want[:2]), Gaussian(*want[2:]), 10.0, -10.0).backward()
    for got, truth in zip((*x, *y), want, strict=True):
        assert torch.isfinite(got.grad).all()
        # means, gradients by a logit and results are rounded to float16 once each
        assert_near([got.grad / 65536], [truth.grad], terms=4, dtype=torch.float16)
