"""The softmax loss where its terms are small, or underflow."""

from __future__ import annotations

import pytest
import torch

from prolap_kernels import (
    infonce_loss,
)
from tests.tolerances import assert_near, assert_same, likely


@pytest.mark.parametrize("scale", [10.0, 80.0])
def test_softmax_keeps_its_small_terms(scale: float) -> None:
    """Matched rows alike: the loss is the others' share, e^-80 of the sum, and the gradient of a positive is as small.

    Each is known to the rounding of a logit of size `scale`: eager torch gives 0 there, for log-sum-exp minus the logit."""
    x = torch.nn.functional.normalize(torch.randn(24, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    found = {}
    for dtype in (torch.float32, torch.float64):
        side = x.clone().to(dtype).requires_grad_()
        loss = infonce_loss(side, x.to(dtype), torch.tensor(scale, dtype=dtype), backend="chunked")
        found[dtype] = [loss.detach(), torch.autograd.grad(loss, side)[0]]
    cosine = (x @ x.T).double().fill_diagonal_(-1).amax(1)
    expected = torch.exp(scale * (cosine - 1))  # of the largest other alone, a lower bound
    assert (found[torch.float64][0] >= expected.mean() * (1 - 1e-6)).all()
    # p is a quotient of two exponentials, whose logits (of size `scale` and below) are sums over 16 dimensions
    assert_near(found[torch.float32], found[torch.float64], terms=2 * scale + likely(24 + 24 + 16), dtype=torch.float32)


def test_softmax_of_rows_without_positives_far_from_zero() -> None:
    """Logits whose exponentials underflow, in rows that do not count: no NaN, and zero gradients."""
    x, y = (torch.full((3, 1), v, requires_grad=True) for v in (1.0, -300.0))
    ids = torch.tensor([0, 1, 2]), torch.tensor([0, 7, 8])
    loss = infonce_loss(x, y, 1.0, x_id=ids[0], y_id=ids[1])
    grads = torch.autograd.grad(loss, [x, y])
    assert_same(loss, torch.tensor(3.0).log(), terms=4)
    assert all(torch.isfinite(g).all() for g in grads)
