"""The loss of ProLIP (arXiv 2410.18857)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..gaussian import Gaussian
from ..losses import pairwise_loss, ppcl_loss
from ..matched import inclusion_loss, vib_loss
from .pcmepp import Features, as_gaussian


class ProLIPLoss(nn.Module):
    """lambda PPCL + inclusions + beta VIB, each part as the public code of ProLIP has it.

    PPCL and SigLIP are divided by the batch; inclusion takes log sigmoid per dimension of `inclusion_loss_scale` times H with
    kappa = 1 and rho = exp(inclusion_loss_eps); VIB halves the log-variance. SigLIP takes `negative_scale` and `shift`.
    logit_scale=None means 1, logit_bias=None and shift=None mean 0.

    Returns the sum of the weighted parts; with output_dict=True the parts themselves, which the public trainer sums: "ppcl" and,
    where their weights are above 0, "siglip", "img_inclusion", "txt_inclusion", "inclusion", "vib".
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
        x, y = as_gaussian(image_features), as_gaussian(text_features)
        parts = {}
        if self.siglip_lambda > 0:
            if negative_scale is None:
                raise ValueError("negative_scale must be given where siglip_lambda is above 0, got None")
            siglip = pairwise_loss(x, y, score="dot", scale=negative_scale, bias=0.0 if shift is None else shift)
            parts["siglip"] = self.siglip_lambda * siglip
        scale, bias = 1.0 if logit_scale is None else logit_scale, 0.0 if logit_bias is None else logit_bias
        parts["ppcl"] = self.ppcl_lambda * ppcl_loss(x, y, scale, bias)
        if masked_image_features is not None:
            if masked_text_features is None:
                raise ValueError("masked_text_features must be given where masked_image_features is, got None")
            for name, z, features in (("img", x, masked_image_features), ("txt", y, masked_text_features)):
                masked = as_gaussian(features)
                loss = self._inclusion(z.rows(slice(len(masked_image_features["mean"]))), masked)
                parts[f"{name}_inclusion"] = self.inclusion_alpha_occ * loss
        if self.inclusion_alpha > 0:
            parts["inclusion"] = self.inclusion_alpha * self._inclusion(x, y)
        if self.vib_beta > 0:
            parts["vib"] = self.vib_beta * (vib_loss(x, convention="prolip") + vib_loss(y, convention="prolip"))
        return parts if output_dict else torch.stack(list(parts.values())).sum()
