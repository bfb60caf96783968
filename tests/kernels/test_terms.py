"""All matched-row terms of a step in one call: against the losses one by one, their launches, their errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from prolap_kernels import (
    Gaussian,
    Inclusion,
    Vib,
    hierarchical_inclusion_loss,
    inclusion_loss,
    inclusion_score,
    matched_losses,
    vib_loss,
)
from prolap_kernels.pairs import SATURATED
from tests.kernels.common import gaussian
from tests.tolerances import assert_near, assert_same

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
VALID = torch.tensor([[True, False, True], [True, True, False]], device=DEVICE)
ROWS = (5, 3, 3, 5, 3)
"""Audio, two masked copies of its first rows, text, one masked copy."""
TERMS = (
    Inclusion((0, 3), 0.3),
    Inclusion((0, 1, 2), 0.9, "prolip", "none", VALID),
    Inclusion((3, 4), 2.0, reduce_dims="mean"),
    Vib(0),
    Vib(3, "prolip"),
)


def levels(dtype: torch.dtype = torch.float64, width: int = 6, rows: tuple[int, ...] = ROWS) -> list[Gaussian]:
    leaves = [gaussian(n, width, seed, dtype) for seed, n in enumerate(rows)]
    return [Gaussian(*(t.detach().to(DEVICE).requires_grad_() for t in z)) for z in leaves]


def apart(z: list[Gaussian], backend: str) -> list[Tensor]:
    """The same terms by the public losses one by one."""
    audio, text = (z[k].rows(slice(3)) for k in (0, 3))
    options: dict[str, Any] = {"backend": backend}
    return [
        inclusion_loss(z[0], z[3], scale=0.3, **options),
        hierarchical_inclusion_loss(
            [audio, z[1], z[2]], scale=0.9, convention="prolip", reduce_dims="none", link_valid=VALID, **options
        ),
        inclusion_loss(text, z[4], scale=2.0, reduce_dims="mean", **options),
        vib_loss(z[0], **options),
        vib_loss(z[3], convention="prolip", **options),
    ]


def gradients(losses: Any, z: list[Gaussian]) -> list[Tensor]:
    total = sum((k + 1) * loss for k, loss in enumerate(losses))
    assert isinstance(total, Tensor)
    return list(torch.autograd.grad(total, [t for level in z for t in level]))


@pytest.mark.parametrize("backend", ["chunked", "reference", "triton"])
def test_one_call_gives_what_the_losses_give_one_by_one(backend: str) -> None:
    dtype = torch.float32 if backend == "triton" else torch.float64
    z = levels(dtype)
    together, truth = matched_losses(z, TERMS, backend=backend), apart(levels(), "reference")
    terms = 5 * 12  # up to 5 terms meet in a level's gradient, each of about 12 operations
    for mine, single, want in zip(together, apart(z, backend), truth, strict=True):
        assert mine.shape == ()
        assert_near([mine, single], [want, want], terms=terms, dtype=dtype)
    exact = levels()
    for mine, want in zip(gradients(together, z), gradients(apart(exact, "reference"), exact), strict=True):
        assert mine.dtype == dtype
        assert_near([mine], [want], terms=terms, dtype=dtype)


@pytest.mark.parametrize("backend", ["chunked", "reference"])
def test_gradcheck(backend: str) -> None:
    def loss(*tensors: Tensor) -> tuple[Tensor, ...]:
        pairs = [Gaussian(*tensors[i : i + 2]) for i in range(0, len(tensors), 2)]
        return matched_losses(pairs, TERMS, backend=backend)

    assert torch.autograd.gradcheck(loss, tuple(t for z in levels() for t in z))


@pytest.mark.parametrize("backend", ["chunked", "triton"])
def test_half_precision_means_get_their_gradients_rounded_last(backend: str) -> None:
    z = levels(torch.bfloat16, 32)
    wide = [Gaussian(*(t.detach().double().requires_grad_() for t in level)) for level in z]
    got = gradients(matched_losses(z, TERMS, backend=backend), z)
    for mine, want in zip(got, gradients(apart(wide, "reference"), wide), strict=True):
        # rounded last (the interpreter cuts off: one eps); log-variances' gradients are float32 sums of 5 terms of 12 operations
        assert_near([mine], [want], terms=1 if mine.dtype == torch.bfloat16 else 5 * 12, dtype=mine.dtype)
    assert got[0].dtype == torch.bfloat16
    assert got[1].dtype == torch.float32


@pytest.mark.parametrize("backend", ["chunked", "triton", "reference"])
@pytest.mark.parametrize("reduce_dims", ["sum", "mean", "none"])
def test_the_saturated_share_is_that_of_small_slopes(backend: str, reduce_dims: str) -> None:
    x, y = (Gaussian(*(t.detach() for t in z)) for z in levels(torch.float32, 6, (40, 40)))
    y = Gaussian(y.mean, y.logvar + torch.linspace(-4, 4, 40, device=DEVICE)[:, None])
    scale = {"sum": 3.0, "mean": 10.0, "none": 10.0}[reduce_dims]
    h = torch.stack([inclusion_score(Gaussian(x.mean[:, [d]], x.logvar[:, [d]]), Gaussian(y.mean[:, [d]], y.logvar[:, [d]]))
                     for d in range(6)], 1)  # fmt: skip
    if reduce_dims != "none":
        h = h.sum(1) if reduce_dims == "sum" else h.mean(1)
    flags = torch.ones(1, 40, dtype=torch.bool, device=DEVICE)
    flags[0, ::3] = False
    terms = [Inclusion((0, 1), scale, reduce_dims=reduce_dims, valid=flags), Vib(1)]  # type: ignore[arg-type]
    losses, saturated = matched_losses([x, y], terms, stats=True, backend=backend)
    want = ((-scale * h[flags[0]]).sigmoid() < SATURATED).float().mean()
    assert 0 < want < 1
    # counts are exact; a row's share, the mean over rows, and both in the truth round once each
    assert_same(saturated, torch.stack([want, torch.zeros_like(want)]), terms=4)
    assert len(losses) == 2


@pytest.mark.parametrize("backend", ["chunked", "triton", "reference"])
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_what_does_not_count_adds_exact_zeros_and_no_count(backend: str) -> None:
    z = levels(torch.float32)
    with torch.no_grad():
        z[1].logvar[1] = z[2].mean[2] = float("nan")  # of links that are off
    valid = torch.tensor([[True, False, True], [False, False, False]], device=DEVICE)
    losses, saturated = matched_losses(
        z,
        [Inclusion((0, 1, 2), valid=valid), Inclusion((3, 4), valid=torch.zeros_like(valid[:1]))],
        stats=True,
        backend=backend,
    )
    assert losses[0].isfinite()
    assert losses[1] == 0
    assert saturated[1] == 0
    if backend == "reference":
        return  # 0 * NaN in a formula that autograd differentiates
    grads = torch.autograd.grad(sum(losses), [z[1].logvar, z[2].mean, z[3].mean])  # type: ignore[arg-type]
    assert not grads[0][1].any()
    assert grads[0][0].all()
    assert not grads[1].any()
    assert not grads[2].any()


@pytest.mark.parametrize("backend", ["chunked", "triton", "reference"])
def test_detach_mean_is_of_its_term_alone(backend: str) -> None:
    z = levels(torch.float32)
    plain = matched_losses(z, [Inclusion((0, 3))], backend=backend)
    both = matched_losses(z, [Inclusion((0, 3)), Inclusion((0, 1), detach_mean=True)], backend=backend)
    tensors = [z[0].mean, z[1].mean, z[1].logvar]
    want = torch.autograd.grad(plain[0], tensors, allow_unused=True)
    got = torch.autograd.grad(sum(both), tensors, allow_unused=True)  # type: ignore[arg-type]
    assert_same(got[0], want[0], terms=12)
    assert got[1] is None or not got[1].any()
    assert got[2].any()


@pytest.mark.parametrize("backend", ["chunked", "triton"])
def test_a_chain_turned_around_has_the_same_links_with_the_sign_turned(backend: str) -> None:
    z = levels(torch.float32, 6, (4, 4))
    forth, back = inclusion_score(*z, backend=backend), inclusion_score(*z[::-1], backend=backend)
    assert torch.equal(forth, -back)
    for a, b in zip(gradients([forth.sum()], z), gradients([back.sum()], z), strict=True):
        assert torch.equal(a, -b)


class Operators(TorchDispatchMode):
    """Names of the torch operators that would launch a kernel on a GPU."""

    FREE = (
        "empty",
        "new_empty",
        "view",
        "slice",
        "select",
        "split",
        "unbind",
        "detach",
        "alias",
        "_unsafe_view",
        "narrow",
    )

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.__name__.startswith(self.FREE) and "prolap_kernels" not in str(func):
            self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


def test_a_step_takes_five_launches_forward_and_two_back(monkeypatch: pytest.MonkeyPatch) -> None:
    from prolap_kernels.backends.triton import configs

    z = levels(torch.float32, 16, (8, 3, 3, 8, 3, 3, 3))
    chains = [torch.ones(links, 3, dtype=torch.bool, device=DEVICE) for links in (2, 3)]
    terms = [Inclusion((0, 3)), Inclusion((0, 1, 2), valid=chains[0]), Inclusion((3, 4, 5, 6), valid=chains[1])]
    launched: list[str] = []
    launch = configs.launch

    def note(kernel: Any, *rest: Any) -> None:
        launched.append(kernel.__name__)
        launch(kernel, *rest)

    monkeypatch.setattr(configs, "launch", note)
    everything = [*terms, Vib(0), Vib(3)]
    matched_losses(z, everything, backend="triton")  # the table of terms is copied to the device once
    launched.clear()
    with Operators() as forward:
        losses = matched_losses(z, everything, backend="triton")
    assert launched == ["matched_rows_kernel", "matched_means_kernel"]
    assert forward.names == ["cat.default"] * 3
    launched.clear()
    ones = [torch.ones_like(loss) for loss in losses]
    with Operators() as backward:
        torch.autograd.grad(losses, [t for level in z for t in level], ones)
    assert launched == ["matched_gradients_kernel"]
    assert backward.names == ["stack.default"]


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ([Inclusion((0, 9))], r"terms\[0\].levels\[1\] must be the index of a level, 0 to 4, got 9"),
        ([Inclusion((0,))], r"terms\[0\].levels must be a list of at least two indices of levels, got 1"),
        (
            [Inclusion((0, 1)), Inclusion((2, 2))],
            r"terms\[1\].levels must be indices, each unlike the next, got \[2, 2\]",
        ),
        ([Vib(-1)], r"terms\[0\].level must be the index of a level, 0 to 4, got -1"),
        ([Vib(0, "prolib")], r"terms\[0\].convention must be .*did you mean 'prolip'"),
        ([Inclusion((0, 1), reduce_dims="max")], r"terms\[0\].reduce_dims must be one of 'sum'"),  # type: ignore[arg-type]
        (
            [Inclusion((0, 1), torch.ones(()))],
            r"terms\[0\].scale must be a constant number of at least 0, got a torch.float32",
        ),  # type: ignore[arg-type]
        (
            [Inclusion((0, 1), valid=VALID)],
            r"terms\[0\].valid must be a bool tensor of shape \[1, 3\], got a torch.bool",
        ),
        ([(0, 1)], r"terms\[0\] must be an Inclusion or a Vib, got tuple"),
        ([], "terms must be a list of at least one Inclusion or Vib, got 0"),
    ],
)
def test_bad_input_is_named(terms: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        matched_losses(levels(), terms)
