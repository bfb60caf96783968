"""Diagonal Gaussians, the values that every loss here compares."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Gaussian(NamedTuple):
    """Z = N(mean, diag(exp(logvar))), a batch of N diagonal Gaussians in D dimensions.

    mean, logvar: [N, D] floating point. `logvar` is the natural logarithm of the variance, never of the standard deviation;
    keep it in float32 under mixed precision. The losses do not normalise `mean`; the model may.
    """

    mean: Tensor
    logvar: Tensor

    @property
    def var(self) -> Tensor:
        """Variance exp(logvar), [N, D]; in float32 when logvar is a 16-bit type."""
        return widen(self.logvar).exp()

    @property
    def std(self) -> Tensor:
        """Standard deviation exp(logvar / 2), [N, D]; in float32 when logvar is a 16-bit type."""
        return (0.5 * widen(self.logvar)).exp()

    @property
    def uncertainty(self) -> Tensor:
        """Mean log-variance over dimensions, [N]: how general each row is to the model."""
        return widen(self.logvar).mean(-1)

    @property
    def half_trace(self) -> Tensor:
        """-1/2 sum_d exp(logvar), [N], the variance's share of `csd`; in float32 when logvar is a 16-bit type."""
        return -0.5 * self.var.sum(-1)

    def half_trace_gradient(self, g: Tensor) -> Tensor:
        """The gradient of g . half_trace by logvar, [N, D], g [N]."""
        return self.var.mul_(-0.5 * g[:, None])

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """mean + std * e with e ~ N(0, I), [N, D], reparametrised: it has gradients by mean and logvar."""
        noise = torch.randn(self.mean.shape, generator=generator, dtype=self.mean.dtype, device=self.mean.device)
        return self.mean + self.std.to(self.mean.dtype) * noise

    def rows(self, index: Tensor | slice) -> Gaussian:
        """The Gaussians at these rows."""
        return Gaussian(self.mean[index], self.logvar[index])

    def keep(self, counts: Tensor) -> Gaussian:
        """The same Gaussians with zeros in the rows that `counts` [N] does not mark."""
        return Gaussian(*(t.masked_fill(~counts[:, None], 0) for t in self))

    def detach(self) -> Gaussian:
        """The same Gaussians, outside the graph."""
        return Gaussian(self.mean.detach(), self.logvar.detach())


def widen(value: Tensor) -> Tensor:
    """`value` in float32 if it has 16 bits, else as it is: sums and exponentials are never taken in 16 bits."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
