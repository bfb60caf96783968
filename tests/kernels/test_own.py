"""Scores and objectives of a user's own, and the block primitive, against float64 formulas written here."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from prolap_kernels import (
    Elementwise,
    Factor,
    Gaussian,
    Score,
    pairwise_loss,
    pointwise_objective,
    register_objective,
    register_score,
)  # fmt: skip  # isort: skip
from prolap_kernels.backends import launcher
from prolap_kernels.backends.problem import PairOptions, PairProblem, PairSums
from prolap_kernels.scores.elementwise import reciprocal, variance
from tests.kernels.common import as_float64, gaussian, pair_inputs, value_and_grads
from tests.tolerances import assert_near, likely

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def shrunk(mx: Tensor, vx: Tensor, my: Tensor, vy: Tensor) -> Tensor:
    return mx * my / ((1 + vx) * (1 + vy)).sqrt() - 0.5 * (vx + vy)


def separation(mx: Tensor, vx: Tensor, my: Tensor, vy: Tensor) -> Tensor:
    return -(mx - my).square() / (vx + vy)


def value(xa, xb, xc, ya, yb, yc):
    return (ya - xa) * (xa - ya) * reciprocal(xb + yb)


def gradient_x(xa, xb, xc, ya, yb, yc):
    pull = (xa - ya) * reciprocal(xb + yb)
    return -2.0 * pull, pull * pull * xb


def gradient_y(xa, xb, xc, ya, yb, yc):
    pull = (xa - ya) * reciprocal(xb + yb)
    return 2.0 * pull, pull * pull * yb


def formula(similarity: Callable[..., Tensor]) -> Callable[[Gaussian, Gaussian], Tensor]:
    return lambda x, y: similarity(x.mean, x.var, y.mean, y.var)


def factor(z: Gaussian) -> Factor:
    return Factor(z.mean / (1 + z.var).sqrt(), z.half_trace)


HINGE = pointwise_objective("own", lambda logit, positive: (1 - logit.where(positive, -logit)).clamp(min=0).square())
FORMULA = Score("own", formula(shrunk))
SPLIT = Elementwise(variance, variance, value, gradient_x, gradient_y)
OWN = {
    "formula": (FORMULA, "sigmoid", shrunk),
    "factors": (Score("own", formula(shrunk), factor, factor), "sigmoid", shrunk),
    "elementwise": (Score("own", formula(separation), elementwise=SPLIT), "sigmoid", separation),
    "objective": ("csd", HINGE, lambda mx, vx, my, vy: mx * my - 0.5 * (vx + vy)),
}
"""All of one name, in one process: each must give its own result."""


def assert_right(kind: str, backend: str, dtype: torch.dtype, n: int = 5, m: int = 4, d: int = 3) -> None:
    """The loss and its six gradients; logits have a size of 8 or below, in sums over n rows, m columns and d dimensions."""
    score, objective, similarity = OWN[kind]
    inputs = [t.detach().to(DEVICE).requires_grad_() for t in pair_inputs(n, m, d, dtype)]

    def loss(mx: Tensor, lx: Tensor, my: Tensor, ly: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        x, y = Gaussian(mx, lx), Gaussian(my, ly)
        return pairwise_loss(x, y, score=score, objective=objective, scale=scale, bias=bias, backend=backend)

    def truth(mx: Tensor, lx: Tensor, my: Tensor, ly: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        s = similarity(mx[:, None], lx.exp()[:, None], my, ly.exp()).sum(-1)
        margin = (scale * s + bias) * (2 * torch.eye(n, m, dtype=s.dtype, device=s.device) - 1)
        each = (1 + (-margin).exp()).log() if objective == "sigmoid" else (1 - margin).clamp(min=0).square()
        return each.sum() / n

    exact = value_and_grads(truth, as_float64(inputs))
    assert_near(value_and_grads(loss, inputs), exact, terms=8 * likely(n + m + d), dtype=dtype)


@pytest.mark.parametrize("backend", ["reference", "chunked"])
@pytest.mark.parametrize("kind", OWN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients(kind: str, backend: str, dtype: torch.dtype) -> None:
    assert_right(kind, backend, dtype)


@pytest.mark.parametrize("kind", ["factors", "elementwise"])
def test_on_fused_kernels(kind: str) -> None:
    assert_right(kind, "triton", torch.float32)


@pytest.mark.parametrize("kind, shape", [("elementwise", (512, 520, 64)), ("objective", (1030, 1024, 4))])
def test_above_the_size_that_is_compiled(kind: str, shape: tuple[int, int, int]) -> None:
    assert_right(kind, "chunked", torch.float32, *shape)


@pytest.mark.parametrize("options", [{"score": FORMULA}, {"objective": HINGE}])
def test_triton_names_what_has_no_kernel(options: dict[str, object]) -> None:
    x = gaussian(3, 4, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"^backend 'triton' has no kernel: .*'own.*; use 'chunked'$"):
        pairwise_loss(x, x, backend="triton", **options)


@pytest.mark.parametrize("register, taken", [
    (register_score, Score("csd", formula(shrunk))),
    (register_objective, pointwise_objective("sigmoid", lambda logit, positive: logit)),
])  # fmt: skip
def test_registries_refuse_a_taken_name_and_a_wrong_type(register: Callable[..., object], taken: object) -> None:
    with pytest.raises(ValueError, match="must have a name of its own, got '"):
        register(taken)
    with pytest.raises(TypeError, match="must be of the type (Score|Objective), got 'csd'"):
        register("csd")


@pytest.mark.parametrize("backend", ["chunked", "triton"])
@pytest.mark.parametrize("score", ["csd", "kl"])
def test_the_block_primitive_adds_to_the_sums_it_is_given(score: str, backend: str) -> None:
    n, m, half = 5, 6, 3
    x, y = ([t.detach().to(DEVICE) for t in gaussian(k, 16, k, torch.float32)] for k in (n, m))
    none, scale, bias = (torch.tensor(value, device=DEVICE) for value in ([], 2.0, -1.0))
    ids = torch.arange(n, device=DEVICE), torch.arange(m, device=DEVICE) % 4 - 1
    options = PairOptions(score, "sigmoid", backend, False, True, "ieee", True, True, True, True)
    add_pairs, bilinear = launcher(options), score == "csd"
    halves = slice(half), slice(half, m)

    def problem(part: slice) -> PairProblem:
        offsets = (-x[1].exp().sum(1), -y[1].exp().sum(1)[part]) if bilinear else (none, none)
        logvars = (None, None) if bilinear else (x[1], y[1][part])
        return PairProblem(x[0], y[0][part], *offsets, scale, bias, ids[0], ids[1][part], none, *logvars)

    whole, added = (PairSums.empty(problem(slice(m)), options) for _ in range(2))
    add_pairs(problem(slice(m)), options, whole, True)
    added.zero_()
    for part in halves:
        views = {name: t[part] if (t := getattr(added, name)).numel() else t for name in ("dphi_y", "col", "dlogvar_y")}
        add_pairs(problem(part), options, added._replace(**views), False)
    assert_near(added, whole, terms=8 * likely(n + m + 16), dtype=torch.float32)
