"""How far apart two right results may lie: from the dtype, the length of the sums and the size of what is summed.

No bound here is what some machine showed. One operation rounds its result by at most u = eps / 2 of it. A sum of n terms errs
by at most n u times the sum of their sizes, in any order, with vectors of any width and any number of threads (Higham,
Accuracy and Stability of Numerical Algorithms, section 4.2); so two orders lie within n eps of that size of each other. Where n
is large and roundings are as good as independent, an error is sqrt(n) u times a small constant (Higham and Mary 2019):
`likely(n)` terms then stand for n.

A small entry of a large tensor errs with the large entries, since it was summed from the same products. Hence an error is held
against the largest entry of its tensor, or against `scale` where what is summed is larger than every sum (cancellation).

Bitwise equality is for one program that runs twice: the same shapes, threads and code. The way of a matrix product depends on
its shapes, so rows of a larger batch are not such a case.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

EAGER_FACTOR = 2
"""Two orders of the same sums: an error may be twice that of the other order."""


def likely(terms: int) -> float:
    """Terms that stand for many independent roundings: 4 standard deviations of sqrt(terms) u = sqrt(terms) eps / 2."""
    return 2 * float(terms) ** 0.5


def bound(dtype: torch.dtype, terms: float, size: float = 1.0) -> float:
    """How far two sums of `terms` terms may lie apart whose terms' sizes add up to `size`."""
    return terms * torch.finfo(dtype).eps * size


def largest(*tensors: Tensor) -> float:
    """The largest finite |entry|, 0 without any."""
    finite = [t.detach()[t.detach().isfinite()] for t in tensors]
    return max((float(t.abs().max()) for t in finite if t.numel()), default=0.0)


def coarsest(*tensors: Tensor) -> torch.dtype:
    """The dtype with the largest eps; float32 where none is a floating-point one."""
    kinds = [t.dtype for t in tensors if t.is_floating_point()]
    return max(kinds, key=lambda kind: torch.finfo(kind).eps, default=torch.float32)


def check(apart: float, allowed: float, message: str) -> None:
    """Every comparison here ends in this one; NaN is no agreement."""
    assert apart <= allowed, message


def assert_same(
    value: Tensor | float,
    truth: Tensor | float,
    *,
    terms: float,
    scale: float | None = None,
    dtype: torch.dtype | None = None,
    name: str = "",
) -> None:
    """|value - truth| is at most `terms` eps `scale` in every entry, with eps of `dtype`.

    scale: the size of what is summed, by default the largest entry of the truth. dtype: that of the rounding, by default the
    coarser of the two. Infinities and NaN must stand in the same entries.
    """
    value, truth = (torch.as_tensor(t).detach().cpu() for t in (value, truth))
    assert value.shape == truth.shape, f"{name}: got the shape {tuple(value.shape)}, want {tuple(truth.shape)}"
    dtype = coarsest(value, truth) if dtype is None else dtype
    scale = largest(truth) if scale is None else scale
    value, truth = value.double(), truth.double()
    finite = truth.isfinite()
    assert torch.equal(value[~finite].nan_to_num(0.5), truth[~finite].nan_to_num(0.5)), (
        f"{name}: infinities or NaN differ"
    )
    apart = (value - truth)[finite].abs()
    worst = float(apart.max()) if apart.numel() else 0.0
    allowed = bound(dtype, terms, scale)
    check(worst, allowed, f"{name}: {worst:.2e} apart, {allowed:.2e} allowed ({terms:g} eps of {scale:.2e})")


def assert_all_same(values: Iterable[Tensor], truths: Iterable[Tensor], *, terms: float, **options: object) -> None:
    """`assert_same` for each pair, each at its own scale unless one is given."""
    for number, (value, truth) in enumerate(zip(values, truths, strict=True)):
        assert_same(value, truth, terms=terms, name=f"tensor {number}", **options)  # type: ignore[arg-type]


def assert_same_gradients(
    grads: Mapping[str, Tensor | None], truths: Mapping[str, Tensor | None], *, terms: float
) -> None:
    """Gradients of one loss by the parameters of one model, at the scale of the largest gradient.

    Backward passes sum what comes from above, and a tensor's own gradient can be next to nothing because it cancels (as that of
    the key biases of attention does, exactly). Run the model in float64, and this scale costs the test nothing.
    """
    assert grads.keys() == truths.keys()
    assert [g is None for g in grads.values()] == [g is None for g in truths.values()]
    scale = largest(*(g for g in truths.values() if g is not None))
    assert scale > 0
    for name, grad in grads.items():
        if grad is not None:
            assert_same(grad, truths[name], terms=terms, scale=scale, name=name)


def error(value: Tensor, truth: Tensor) -> float:
    """|value - truth| in the Frobenius norm."""
    return float((value.detach().cpu().double() - truth.detach().cpu().double()).norm())


def relative(value: Tensor, truth: Tensor) -> float:
    """|value - truth| / |truth| in the Frobenius norm; the absolute error where the truth is zero."""
    return error(value, truth) / (float(truth.detach().double().norm()) or 1.0)


def assert_near(
    values: Iterable[Tensor], truths: Iterable[Tensor], *, terms: float, dtype: torch.dtype | None = None
) -> None:
    """`assert_same` in the Frobenius norm: where errors are known of a whole tensor and not of each entry."""
    for number, (value, truth) in enumerate(zip(values, truths, strict=True)):
        kind = coarsest(value, truth) if dtype is None else dtype
        apart, allowed = relative(value, truth), bound(kind, terms)
        check(apart, allowed, f"tensor {number}: {apart:.2e} of its norm apart, {allowed:.2e} allowed ({terms:g} eps)")


def assert_as_exact_as(
    eager: Sequence[Tensor],
    values: Sequence[Tensor],
    truths: Sequence[Tensor],
    *,
    terms: float,
    inner: torch.dtype = torch.float32,
    result: torch.dtype | None = None,
    factor: float = EAGER_FACTOR,
    scales: Sequence[float] | None = None,
) -> None:
    """Against float64, each value errs at most `factor` times as much as eager torch in the same dtype, and a rounding more.

    terms: what the sums inside, in `inner`, may err by themselves where eager torch was lucky: one number is right by chance far
    more often than a norm of many. The rounding to the stored dtype (`result`, by default the value's own) comes on top, once
    for the operands of a product and once for its result. Frobenius norms; a truth of 0 has the size 1, or that of `scales`.
    """
    for number, (value, rival, truth) in enumerate(zip(values, eager, truths, strict=True)):
        stored = 2 * torch.finfo(result or value.dtype).eps
        size = float(truth.detach().double().norm()) or 1.0
        size = size if scales is None else max(size, scales[number])
        allowed = factor * error(rival, truth) + (stored + bound(inner, terms)) * size
        mine, theirs = error(value, truth), error(rival, truth)
        check(mine, allowed, f"result {number}: errs by {mine:.2e}, {allowed:.2e} allowed; eager torch by {theirs:.2e}")
