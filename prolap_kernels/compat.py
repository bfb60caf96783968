"""Twins of two public losses, on the engine of this package: swap the import. Single process.

Both public codes call the log-variance "std": features are dictionaries {"mean": [N, D], "std": log-variance [N, D]}.
Not reproduced: an exploding term silently replaced by zero, crashes, and numbers that differ from rank to rank.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .gaussian import Gaussian
from .losses import pairwise_loss, ppcl_loss
from .matched import inclusion_loss, vib_loss
from .matrix import pairwise_score

Features = Mapping[str, Tensor]


def _gaussian(features: Features) -> Gaussian:
    return Gaussian(features["mean"], features["std"])


class ProLIPLoss(nn.Module):
    """ProLIP (arXiv 2410.18857): lambda PPCL + inclusions + beta VIB, each part as the public code takes it.

    PPCL and SigLIP divide by the batch; inclusion takes log sigmoid per dimension of `inclusion_loss_scale` times H with
    kappa = 1 and rho = exp(inclusion_loss_eps); VIB halves the log-variance. SigLIP takes `negative_scale` and `shift`.

    `output_dict=True` returns the weighted parts alone, "ppcl" and, where they count, "siglip", "img_inclusion", "txt_inclusion",
    "inclusion", "vib"; the public trainer sums them. False returns their sum. No scale is 1 and no bias 0.
    """

    def __init__(
        self,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        bidir: bool = True,
        use_horovod: bool = False,
        ppcl_lambda: float = 1,
        siglip_lambda: float = 0,
        inclusion_alpha: float = 0,
        inclusion_alpha_occ: float = 0,
        inclusion_loss_eps: float = -10,
        inclusion_loss_scale: float = 1000,
        vib_beta: float = 0.00001,
    ) -> None:
        super().__init__()
        if world_size > 1 or use_horovod:
            raise NotImplementedError(f"world_size must be 1, without horovod, in this version, got {world_size}")
        self.cache_labels, self.rank, self.world_size = cache_labels, rank, world_size
        self.bidir, self.use_horovod = bidir, use_horovod
        self.ppcl_lambda, self.siglip_lambda, self.vib_beta = ppcl_lambda, siglip_lambda, vib_beta
        self.inclusion_alpha, self.inclusion_alpha_occ = inclusion_alpha, inclusion_alpha_occ
        self.inclusion_loss_eps, self.inclusion_loss_scale = inclusion_loss_eps, inclusion_loss_scale

    def _inclusion(self, x: Gaussian, y: Gaussian) -> Tensor:
        # rho multiplies (mx - my)^2 alone, so another rho is another unit of the means
        unit = math.exp((self.inclusion_loss_eps + 10) / 2)
        x, y = Gaussian(unit * x.mean, x.logvar), Gaussian(unit * y.mean, y.logvar)
        return inclusion_loss(x, y, scale=self.inclusion_loss_scale, convention="prolip", reduce_dims="none")

    def forward(
        self,
        image_features: Features,
        text_features: Features,
        logit_scale: float | Tensor | None = None,
        logit_bias: float | Tensor | None = None,
        shift: float | Tensor | None = None,
        negative_scale: float | Tensor | None = None,
        masked_image_features: Features | None = None,
        masked_text_features: Features | None = None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        x, y = _gaussian(image_features), _gaussian(text_features)
        parts = {}
        if self.siglip_lambda > 0:
            if negative_scale is None:
                raise ValueError("negative_scale must be given where siglip_lambda is above 0, got None")
            by: dict[str, Any] = {"scale": negative_scale, "bias": 0.0 if shift is None else shift}
            parts["siglip"] = self.siglip_lambda * pairwise_loss(x, y, score="dot", **by)
        scale, bias = 1.0 if logit_scale is None else logit_scale, 0.0 if logit_bias is None else logit_bias
        parts["ppcl"] = self.ppcl_lambda * ppcl_loss(x, y, scale, bias)
        if masked_image_features is not None:
            if masked_text_features is None:
                raise ValueError("masked_text_features must be given where masked_image_features is, got None")
            for name, z, features in (("img", x, masked_image_features), ("txt", y, masked_text_features)):
                masked = _gaussian(features)
                loss = self._inclusion(z.rows(slice(len(masked_image_features["mean"]))), masked)
                parts[f"{name}_inclusion"] = self.inclusion_alpha_occ * loss
        if self.inclusion_alpha > 0:
            parts["inclusion"] = self.inclusion_alpha * self._inclusion(x, y)
        if self.vib_beta > 0:
            parts["vib"] = self.vib_beta * (vib_loss(x, convention="prolip") + vib_loss(y, convention="prolip"))
        return parts if output_dict else torch.stack(list(parts.values())).sum()


class ClosedFormSampledDistanceLoss(nn.Module):
    """PCME++ (arXiv 2305.18171): 2 BCE(shift - negative_scale * distance) + vib_beta VIB + smoothness_alpha pseudo-positives.

    BCE divides by the pairs; VIB takes the log-variance unhalved. Without `matched` the main term is fused; soft or given
    targets t add -mean(t * logit), and pseudo-positives find theirs, on one dense N x M matrix.
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
        warnings.warn("this loss has no max violation: nothing changes", stacklevel=2)

    max_violation_off = max_violation_on

    def _bce(self, x: Gaussian, y: Gaussian, target: Tensor | None, logit: Tensor | None) -> Tensor:
        """BCE(l, t) = softplus(l) - t l: every pair as a negative, less the targets' share."""
        options: dict[str, Any] = {
            "score": self.score,
            "scale": self.negative_scale,
            "bias": self.shift,
            "reduction": "pairs",
        }
        if target is None or logit is None:
            whole: Tensor = pairwise_loss(x, y, **options)
            return whole
        ids = torch.arange(len(x.mean) + len(y.mean), device=x.mean.device).split([len(x.mean), len(y.mean)])
        negatives: Tensor = pairwise_loss(x, y, x_id=ids[0], y_id=ids[1], **options)
        return negatives - (target.to(logit) * logit).mean()

    def forward(
        self, img_emb: Features, cap_emb: Features, matched: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor | int]]:
        x, y = _gaussian(img_emb), _gaussian(cap_emb)
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
            there, n = _pseudo(label, logit.detach())
            back, m = _pseudo(label.T, logit.detach().T)
            loss = loss + self.smoothness_alpha * (self._bce(x, y, there, logit) + self._bce(x, y, back.T, logit))
            parts["loss/n_pseudo_gts"] = n + m
        return loss, {"loss/loss": loss, **parts}


def _pseudo(label: Tensor, logit: Tensor) -> tuple[Tensor, int]:
    """Pairs at least as alike as their row's positive take its label; how many beyond one a row."""
    top, place = label.max(1, keepdim=True)
    pseudo = logit >= logit.gather(1, place)
    return torch.where(pseudo, top, label), int(pseudo.sum()) - len(label)
