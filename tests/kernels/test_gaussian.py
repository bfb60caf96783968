from __future__ import annotations

import torch

from prolap_kernels import Gaussian
from tests.kernels.common import gaussian
from tests.tolerances import assert_same


def test_logvar_is_the_log_of_the_variance() -> None:
    z = gaussian(4, 3)
    assert_same(z.var.log(), z.logvar, terms=4)
    assert_same(z.std.square(), z.var, terms=4)
    assert_same(z.uncertainty, z.logvar.sum(1) / 3, terms=4)
    assert torch.equal(z.rows(slice(1, 3)).mean, z.mean[1:3])


def test_sixteen_bit_log_variances_are_exponentiated_in_float32() -> None:
    z = Gaussian(torch.zeros(1, 2), torch.tensor([[11.5, -17.0]], dtype=torch.float16))
    assert z.var.dtype == torch.float32
    for value, logvar in zip(z.var[0], (11.5, -17.0), strict=True):  # float16 would give inf and 0
        assert_same(value, torch.tensor(logvar).exp(), terms=2)


def test_samples_have_the_moments_and_gradients_reach_both_parameters() -> None:
    z = gaussian(1, 2)
    generator = torch.Generator().manual_seed(0)
    draws = torch.cat([z.sample(generator) for _ in range(20_000)])
    assert ((draws.mean(0) - z.mean).abs() < 5 * z.std / 20_000**0.5).all()  # 5 standard errors, and of the variance
    assert ((draws.var(0) / z.var[0] - 1).abs() < 5 * (2 / 20_000) ** 0.5).all()
    draws.sum().backward()
    assert (z.mean.grad == 20_000).all()
    assert (z.logvar.grad != 0).all()
