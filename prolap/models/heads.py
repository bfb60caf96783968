"""From features to a Gaussian: a normalised mean and a smoothly bounded log-variance, both float32."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from prolap.config import ModelConfig
from prolap.utils.registry import Registry
from prolap_kernels import Gaussian

SATURATED = 0.2  # of the margin; nearer to a bound than this, the gradient is below 1/10
SCALE_BEND = 0.1  # the logarithm of the scale bends within this distance of its bounds, or nearer if they are close


def margin(lower: float, upper: float) -> float:
    """Width of the bend at each bound: 1, or a quarter of the range if that is less."""
    return min(1.0, (upper - lower) / 4)


def bound(x: Tensor, lower: float, upper: float, width: float | None = None) -> Tensor:
    """x itself inside; within `width` (m) of a bound b it bends, c + m·(2/pi)·atan((pi/2)·(x - c)/m) with c = b -+ m.

    Continuous with its first two derivatives, strictly rising, and approaches the bounds only at infinity. The gradient
    falls as 1/x² and not exponentially: in float32 it is never zero, so that nothing gets stuck at a bound.
    """
    m = margin(lower, upper) if width is None else width
    inner = x.clamp(lower + m, upper - m)
    return inner + m * (2 / math.pi) * torch.atan((x - inner) * (math.pi / 2 / m))


def unbound(value: float, lower: float, upper: float, width: float | None = None) -> float:
    """The x for which bound(x) is `value`; `value` must lie strictly between the bounds."""
    m = margin(lower, upper) if width is None else width
    inner = min(max(value, lower + m), upper - m)
    return inner + m * (2 / math.pi) * math.tan((value - inner) * (math.pi / 2 / m))


def scale_bounds(config: ModelConfig) -> tuple[float, float, float]:
    """Lower and upper bound of the logarithm of the scale, and the width of the bend at each."""
    lower, upper = math.log(config.scale_min) if config.scale_min else -math.inf, math.log(config.scale_max)
    return lower, upper, min(SCALE_BEND, margin(lower, upper))


class MSClapProjection(nn.Module):
    """LN(e₁ + Dropout(W₂ gelu(e₁))), e₁ = W₁ f: the projection of MS-CLAP's checkpoints, without biases, dropout ½."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, dim, bias=False)
        self.linear2 = nn.Linear(dim, dim, bias=False)
        self.layer_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(0.5)

    def forward(self, features: Tensor) -> Tensor:
        """[B, width] -> [B, dim]."""
        first = self.linear1(features)
        out: Tensor = self.layer_norm(first + self.dropout(self.linear2(functional.gelu(first))))
        return out


class ClapProjection(nn.Module):
    """W₂ relu(W₁ f + b₁) + b₂: the projection of LAION-CLAP's checkpoints, there and at Hugging Face."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, dim)
        self.linear2 = nn.Linear(dim, dim)

    def forward(self, features: Tensor) -> Tensor:
        """[B, width] -> [B, dim]."""
        out: Tensor = self.linear2(functional.relu(self.linear1(features)))
        return out


def _perceptron(width: int, dim: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, dim))


MEAN_HEADS: Registry[Callable[[int, int], nn.Module]] = Registry("model.mean_head")
MEAN_HEADS.update(mlp=_perceptron, msclap=MSClapProjection, clap=ClapProjection)
"""Name -> what makes the mean, before it is normalised, of features [B, width]."""


class Head(nn.Module):
    """mean = m(f) / ‖·‖, logvar = bound(V₂ gelu(V₁ f) + logvar_init) of features f [B, width].

    m is `config.mean_head` in MEAN_HEADS: W₂ gelu(W₁ f) ("mlp"), or the projection that a public checkpoint brings.
    V₂ starts small, so that every log-variance starts near `logvar_init`. "diagonal" has one log-variance per
    dimension, "shared" one per sample, spread over all dimensions. `detach_uncertainty`: the log-variance learns from
    the features but does not move them. Two layers as in MixProLAP (Interspeech 2026, paper 360). Float32 also under
    autocast.
    """

    def __init__(self, width: int, config: ModelConfig) -> None:
        super().__init__()
        self.lower: float
        self.upper: float
        self.lower, self.upper = map(float, config.logvar_bounds)
        if not self.lower < config.logvar_init < self.upper:
            raise ValueError(
                f"model.logvar_init: got {config.logvar_init}, want a value strictly between model.logvar_bounds, "
                f"{self.lower} and {self.upper}."
            )
        self.dim: int = config.dim
        self.detach: bool = config.detach_uncertainty
        self.mean: nn.Module = MEAN_HEADS[config.mean_head](width, config.dim)
        hidden = width // 2
        out = nn.Linear(hidden, config.dim if config.logvar == "diagonal" else 1)
        nn.init.normal_(out.weight, std=0.01 / math.sqrt(hidden))
        nn.init.constant_(out.bias, unbound(config.logvar_init, self.lower, self.upper))
        self.logvar: nn.Sequential = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), out)

    def forward(self, features: Tensor) -> Gaussian:
        """[B, width] -> Gaussian of [B, dim] and [B, dim], float32."""
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            mean = functional.normalize(self.mean(features), dim=-1)
            logvar = self.logvar(features.detach() if self.detach else features)
            return Gaussian(mean, bound(logvar, self.lower, self.upper).expand(-1, self.dim))

    def saturated(self, logvar: Tensor) -> Tensor:
        """Share of log-variances so near a bound that the gradient there is below 1/10; a 0-d float32 tensor."""
        near = SATURATED * margin(self.lower, self.upper)
        return ((logvar < self.lower + near) | (logvar > self.upper - near)).float().mean()
