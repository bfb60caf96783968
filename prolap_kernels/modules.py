"""Losses as modules, with learned scale and bias."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .gaussian import Gaussian
from .losses import infonce_loss, pairwise_loss


class PPCLLoss(nn.Module):
    """`pairwise_loss` with the objective sigmoid, a scale learned as its logarithm and a learned bias."""

    def __init__(self, scale: float = 10.0, bias: float = -10.0, score: str = "csd") -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.bias = nn.Parameter(torch.tensor(bias))
        self.score = score

    def forward(self, x: Gaussian, y: Gaussian, x_id: Tensor | None = None, y_id: Tensor | None = None) -> Tensor:
        return pairwise_loss(x, y, score=self.score, scale=self.log_scale.exp(), bias=self.bias, x_id=x_id, y_id=y_id)


class InfoNCELoss(nn.Module):
    """`infonce_loss` with a scale (the inverse temperature) learned as its logarithm."""

    def __init__(self, scale: float = 1 / 0.07, score: str = "dot") -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.score = score

    def forward(
        self, x: Gaussian | Tensor, y: Gaussian | Tensor, x_id: Tensor | None = None, y_id: Tensor | None = None
    ) -> Tensor:
        return infonce_loss(x, y, self.log_scale.exp(), score=self.score, x_id=x_id, y_id=y_id)
