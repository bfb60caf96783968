"""Losses as modules, with learned scale and bias."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .checks import as_number
from .gaussian import Gaussian
from .losses import infonce_loss, pairwise_loss
from .scores import Score, find_score


def _log_scale(scale: float) -> nn.Parameter:
    positive = as_number("scale", scale, torch.finfo(torch.float32).tiny, "a positive number")
    return nn.Parameter(torch.tensor(math.log(positive)))


class PPCLLoss(nn.Module):
    """`pairwise_loss` with the objective sigmoid, a scale learned as its logarithm and a learned bias."""

    def __init__(self, scale: float = 10.0, bias: float = -10.0, score: str | Score = "csd") -> None:
        super().__init__()
        self.log_scale: nn.Parameter = _log_scale(scale)
        self.bias: nn.Parameter = nn.Parameter(torch.tensor(as_number("bias", bias)))
        find_score(score)
        self.score = score

    def forward(self, x: Gaussian, y: Gaussian, x_id: Tensor | None = None, y_id: Tensor | None = None) -> Tensor:
        return pairwise_loss(x, y, score=self.score, scale=self.log_scale.exp(), bias=self.bias, x_id=x_id, y_id=y_id)


class InfoNCELoss(nn.Module):
    """`infonce_loss` with a scale (the inverse temperature) learned as its logarithm."""

    def __init__(self, scale: float = 1 / 0.07, score: str | Score = "dot") -> None:
        super().__init__()
        self.log_scale: nn.Parameter = _log_scale(scale)
        find_score(score)
        self.score = score

    def forward(
        self, x: Gaussian | Tensor, y: Gaussian | Tensor, x_id: Tensor | None = None, y_id: Tensor | None = None
    ) -> Tensor:
        return infonce_loss(x, y, self.log_scale.exp(), score=self.score, x_id=x_id, y_id=y_id)
