"""The loss of PCME++ (arXiv 2305.18171)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..gaussian import Gaussian
from ..losses import pairwise_loss
from ..matched import vib_loss
from ..matrix import pairwise_score

Features = Mapping[str, Tensor]
"""{"mean": [N, D], "std": [N, D]}; "std" holds log-variances, in the public code of PCME++ and of ProLIP."""


def as_gaussian(features: Features) -> Gaussian:
    return Gaussian(features["mean"], features["std"])


class ClosedFormSampledDistanceLoss(nn.Module):
    """2 BCE(shift - negative_scale * distance) + vib_beta VIB + smoothness_alpha pseudo-positives, as the public code of PCME++.

    BCE is a mean over pairs; VIB takes the whole log-variance. `matched` holds targets [N, M], which may be soft; without them
    the main term is fused. Targets t add -mean(t * logit) on a dense [N, M] matrix, which pseudo-positives are taken from too.

    Returns the loss and its parts by the names that the public trainer logs.
    """

    def __init__(
        self,
        init_shift: float = 5,
        init_negative_scale: float = 5,
        vib_beta: float = 0,
        smoothness_alpha: float = 0,
        prob_distance: str = "csd",
        **kwargs: object,
    ) -> None:
        super().__init__()
        if prob_distance not in ("csd", "wdist"):
            raise ValueError(f"prob_distance must be 'csd' or 'wdist', got {prob_distance!r}")
        self.shift = nn.Parameter(init_shift * torch.ones(1))
        self.negative_scale = nn.Parameter(init_negative_scale * torch.ones(1))
        self.vib_beta, self.smoothness_alpha, self.prob_distance = vib_beta, smoothness_alpha, prob_distance
        self.score = "csd_distance" if prob_distance == "csd" else "wasserstein2"

    def max_violation_on(self) -> None:
        """The public trainer calls it for every loss; this one has no max violation."""
        warnings.warn("this loss has no max violation: nothing changes", stacklevel=2)

    max_violation_off = max_violation_on

    def _bce(self, x: Gaussian, y: Gaussian, target: Tensor | None, logit: Tensor | None) -> Tensor:
        """BCE(l, t) = softplus(l) - t l: the loss of every pair as a negative, minus t l. By default t is the diagonal."""
        ids: list[Tensor] | list[None] = [None, None]
        if target is not None:
            sizes = [len(x.mean), len(y.mean)]
            ids = list(torch.arange(sum(sizes), device=x.mean.device).split(sizes))
        scale, bias = self.negative_scale, self.shift
        loss = pairwise_loss(
            x, y, score=self.score, scale=scale, bias=bias, x_id=ids[0], y_id=ids[1], reduction="pairs"
        )
        return loss if target is None or logit is None else loss - (target.to(logit) * logit).mean()

    def forward(
        self, img_emb: Features, cap_emb: Features, matched: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor | int]]:
        x, y = as_gaussian(img_emb), as_gaussian(cap_emb)
        logit = None
        if matched is not None or self.smoothness_alpha:
            logit = self.negative_scale * pairwise_score(x, y, score=self.score) + self.shift
        loss = 2 * self._bce(x, y, matched, logit)
        parts: dict[str, Tensor | int] = {
            "criterion/shift": self.shift,
            "criterion/negative_scale": self.negative_scale,
        }
        if self.vib_beta != 0:
            parts["loss/vib_loss"] = vib = vib_loss(x) + vib_loss(y)
            loss = loss + self.vib_beta * vib
        if self.smoothness_alpha and logit is not None:
            label = torch.eye(*logit.shape).to(logit) if matched is None else matched.to(logit)
            by_row, n = _pseudo_positives(label, logit.detach())
            by_column, m = _pseudo_positives(label.T, logit.detach().T)
            smooth = self._bce(x, y, by_row, logit) + self._bce(x, y, by_column.T, logit)
            loss = loss + self.smoothness_alpha * smooth
            parts["loss/n_pseudo_gts"] = n + m
        return loss, {"loss/loss": loss, **parts}


def _pseudo_positives(label: Tensor, logit: Tensor) -> tuple[Tensor, int]:
    """Labels where each pair whose logit is at least that of its row's positive gets the positive's label; the number of pairs
    that this adds."""
    top, column = label.max(1, keepdim=True)
    pseudo = logit >= logit.gather(1, column)
    return torch.where(pseudo, top, label), int(pseudo.sum()) - len(label)
