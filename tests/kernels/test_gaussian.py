from __future__ import annotations

import torch

from prolap_kernels import Gaussian
from tests.kernels.common import gaussian


def test_logvar_is_the_log_of_the_variance() -> None:
    z = gaussian(4, 3)
    torch.testing.assert_close(z.var.log(), z.logvar)
    torch.testing.assert_close(z.std.square(), z.var)
    torch.testing.assert_close(z.uncertainty, z.logvar.sum(1) / 3)
    assert torch.equal(z.rows(slice(1, 3)).mean, z.mean[1:3])


def test_sixteen_bit_log_variances_are_exponentiated_in_float32() -> None:
    z = Gaussian(torch.zeros(1, 2), torch.tensor([[11.5, -17.0]], dtype=torch.float16))
    assert z.var.dtype == torch.float32
    torch.testing.assert_close(z.var, torch.tensor([[11.5, -17.0]]).exp())  # float16 would give inf and 0


def test_samples_have_the_moments_and_gradients_reach_both_parameters() -> None:
    z = gaussian(1, 2)
    generator = torch.Generator().manual_seed(0)
    draws = torch.cat([z.sample(generator) for _ in range(20_000)])
    error = z.std / 20_000**0.5
    assert ((draws.mean(0) - z.mean).abs() < 5 * error).all()
    torch.testing.assert_close(draws.var(0), z.var[0], rtol=0.05, atol=0)
    draws.sum().backward()
    assert (z.mean.grad == 20_000).all()
    assert (z.logvar.grad != 0).all()
