"""Errors of bad input: one sentence that names the argument, what came and what is wanted."""

from __future__ import annotations

import pytest
import torch

from prolap_kernels import Gaussian, infonce_loss, mask_repulsive_loss, pairwise_loss, ppcl_loss
from tests.kernels.common import gaussian

X, Y = gaussian(3, 2, 1), gaussian(4, 2, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ppcl_loss(X.mean, Y, 1.0, 0.0), r"x must be a Gaussian\(mean, logvar\) for this score, got a Tensor"),
        (lambda: ppcl_loss([1], Y, 1.0, 0.0), r"x must be a Gaussian\(mean, logvar\) of two tensors, got list"),
        (
            lambda: ppcl_loss(Gaussian(X.mean[0], X.logvar[0]), Y, 1.0, 0.0),
            r"x.mean must have shape \[N, D\], got \[2\]",
        ),
        (
            lambda: ppcl_loss(Gaussian(X.mean, X.logvar[:2]), Y, 1.0, 0.0),
            r"x.logvar must have the shape of mean, \[3, 2\]",
        ),
        (lambda: ppcl_loss(Gaussian(X.mean.long(), X.logvar), Y, 1.0, 0.0), "x.mean must be float16.*got torch.int64"),
        (lambda: ppcl_loss(X, gaussian(4, 5), 1.0, 0.0), "y must have x's 2 dimensions, got 5"),
        (lambda: ppcl_loss(X, gaussian(4, 2, dtype=torch.float32), 1.0, 0.0), "y.mean must have x.mean's dtype"),
        (
            lambda: ppcl_loss(X, Y, torch.ones(2), 0.0),
            r"scale must be a float or a tensor of one element, got shape \[2\]",
        ),
        (lambda: ppcl_loss(X, Y, "10", 0.0), "scale must be a float or a 0-d tensor, got str"),
        (lambda: ppcl_loss(X, Y, 1.0, 0.0, x_id=torch.arange(3)), "y_id must be given where x_id is"),
        (lambda: ppcl_loss(X, Y, 1.0, 0.0, y_id=torch.arange(4)), "x_id must be given where y_id is"),
        (
            lambda: ppcl_loss(X, Y, 1.0, 0.0, x_id=torch.arange(4), y_id=torch.arange(4)),
            r"x_id must have shape \[3\], got \[4\]",
        ),
        (lambda: ppcl_loss(X, Y, 1.0, 0.0, x_id=torch.rand(3), y_id=torch.arange(4)), "x_id must be an integer tensor"),
        (lambda: ppcl_loss(X, Y, 1.0, 0.0, group=object()), "group must be None"),
        (lambda: ppcl_loss(X, Y, 1.0, 0.0, backend="cuda"), "backend must be one of 'reference', 'chunked', 'triton'"),
        (lambda: ppcl_loss(X, Y, 1.0, 0.0, backend="triton"), "backend 'triton' takes float16, bfloat16 or float32"),
        (lambda: pairwise_loss(X, Y, score="cosine"), "score must be one of .*got 'cosine'"),
        (lambda: pairwise_loss(X, Y, objective="sigmod"), "did you mean 'sigmoid'"),
        (
            lambda: pairwise_loss(X, Y, reduction="mean"),
            "reduction must be one of 'rows', 'pairs', 'sum', 'none', got 'mean'",
        ),
        (
            lambda: pairwise_loss(X, Y, objective="softmax", reduction="sum"),
            "reduction must be 'rows' for the objective 'softmax'",
        ),
        (lambda: pairwise_loss(X, Y, objective="softmax", bias=1.0), "bias must be 0.0 for the objective 'softmax'"),
        (lambda: pairwise_loss(X, Y, objective="softmax", negatives_only=True), "negatives_only must be False"),
        (lambda: infonce_loss(X, Y, 1.0, score="dott"), "did you mean 'dot'"),
        (lambda: mask_repulsive_loss(X, gaussian(4, 3), 1.0, 0.0), "must have .* 2 dimensions, got 3"),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:
    with pytest.raises((TypeError, ValueError, NotImplementedError), match=message):
        call()
