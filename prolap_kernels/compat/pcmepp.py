"""The loss of PCME++ (arXiv 2305.18171)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..checks import FLOATS, INTEGERS, as_number, check_sides, check_tensor, choose, wrong
from ..checks import as_gaussian as as_checked
from ..gaussian import Gaussian
from ..losses import pairwise_loss
from ..matched import vib_loss
from ..matrix import pairwise_score

Features = Mapping[str, Tensor]
"""{"mean": [N, D], "std": [N, D]}; "std" holds log-variances, in the public code of PCME++ and of ProLIP."""


def as_gaussian(argument: str, features: Features) -> Gaussian:
    """The features as a checked Gaussian."""
    if not isinstance(features, Mapping) or not {"mean", "std"} <= features.keys():
        raise wrong(argument, 'a dict with "mean" and "std"', features)
    return as_checked(argument, Gaussian(features["mean"], features["std"]), True)


SCORES = {"csd": "csd_distance", "wdist": "wasserstein2"}
"""Scores by the public code's names of their distances."""


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
        self.shift: nn.Parameter = nn.Parameter(as_number("init_shift", init_shift) * torch.ones(1))
        negative_scale = as_number("init_negative_scale", init_negative_scale)
        self.negative_scale: nn.Parameter = nn.Parameter(negative_scale * torch.ones(1))
        self.vib_beta: float = as_number("vib_beta", vib_beta)
        self.smoothness_alpha: float = as_number("smoothness_alpha", smoothness_alpha)
        self.prob_distance: str = prob_distance
        self.score: str = choose("prob_distance", prob_distance, SCORES)

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
        x, y = as_gaussian("img_emb", img_emb), as_gaussian("cap_emb", cap_emb)
        check_sides(("img_emb", "cap_emb"), x, y)
        if matched is not None:
            _check_targets(matched, [len(x.mean), len(y.mean)])
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


def _check_targets(matched: Tensor, shape: list[int]) -> None:
    wanted = f"a real tensor of shape {shape}"
    check_tensor("matched", matched)
    if matched.dtype not in (*FLOATS, *INTEGERS, torch.bool):
        raise wrong("matched", wanted, matched)
    if list(matched.shape) != shape:
        raise wrong("matched", wanted, matched, ValueError)


def _pseudo_positives(label: Tensor, logit: Tensor) -> tuple[Tensor, int]:
    """Labels where each pair whose logit is at least that of its row's positive gets the positive's label; the number of pairs
    that this adds."""
    top, column = label.max(1, keepdim=True)
    pseudo = logit >= logit.gather(1, column)
    return torch.where(pseudo, top, label), int(pseudo.sum()) - len(label)
