"""The loss of ProLIP (arXiv 2410.18857)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..checks import as_flag, as_number, as_scalar, as_whole, check_sides
from ..gaussian import Gaussian
from ..losses import pairwise_loss, ppcl_loss
from ..matched import inclusion_loss, vib_loss
from .pcmepp import Features, as_gaussian

SHORT = {"image": "img", "text": "txt"}
NOT_NEGATIVE = "a number of at least 0"


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
        self.rank: int = as_whole("rank", rank, 0, 0, "0 in this version")
        self.world_size: int = as_whole("world_size", world_size, 1, 1, "1 in this version")
        self.cache_labels: bool = as_flag("cache_labels", cache_labels)
        self.bidir: bool = as_flag("bidir", bidir)
        self.use_horovod: bool = as_flag("use_horovod", use_horovod)
        if use_horovod:
            raise ValueError("use_horovod must be False in this version, got True")
        self.ppcl_lambda: float = as_number("ppcl_lambda", ppcl_lambda)
        self.siglip_lambda: float = as_number("siglip_lambda", siglip_lambda)
        self.inclusion_alpha: float = as_number("inclusion_alpha", inclusion_alpha)
        self.inclusion_alpha_occ: float = as_number("inclusion_alpha_occ", inclusion_alpha_occ)
        self.inclusion_loss_eps: float = as_number("inclusion_loss_eps", inclusion_loss_eps)
        self.inclusion_loss_scale: float = as_number("inclusion_loss_scale", inclusion_loss_scale, 0.0, NOT_NEGATIVE)
        self.vib_beta: float = as_number("vib_beta", vib_beta)

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
        x, y = as_gaussian("image_features", image_features), as_gaussian("text_features", text_features)
        check_sides(("image_features", "text_features"), x, y, matched=True)
        as_flag("output_dict", output_dict)
        parts = {}
        if self.siglip_lambda > 0:
            if negative_scale is None:
                raise ValueError("negative_scale must be given where siglip_lambda is above 0, got None")
            siglip_scale = as_scalar("negative_scale", negative_scale, x.mean)
            siglip_bias = as_scalar("shift", 0.0 if shift is None else shift, x.mean)
            siglip = pairwise_loss(x, y, score="dot", scale=siglip_scale, bias=siglip_bias)
            parts["siglip"] = self.siglip_lambda * siglip
        scale = as_scalar("logit_scale", 1.0 if logit_scale is None else logit_scale, x.mean)
        bias = as_scalar("logit_bias", 0.0 if logit_bias is None else logit_bias, x.mean)
        parts["ppcl"] = self.ppcl_lambda * ppcl_loss(x, y, scale, bias)
        if (masked_image_features is None) != (masked_text_features is None):
            missing = "masked_image_features" if masked_image_features is None else "masked_text_features"
            raise ValueError(f"{missing} must be given where the other modality's are, got None")
        if masked_image_features is not None and masked_text_features is not None:
            for name, z, features in (("image", x, masked_image_features), ("text", y, masked_text_features)):
                masked = as_gaussian(f"masked_{name}_features", features)
                part = z.rows(slice(len(masked.mean)))
                check_sides((f"{name}_features", f"masked_{name}_features"), part, masked, matched=True)
                parts[f"{SHORT[name]}_inclusion"] = self.inclusion_alpha_occ * self._inclusion(part, masked)
        if self.inclusion_alpha > 0:
            parts["inclusion"] = self.inclusion_alpha * self._inclusion(x, y)
        if self.vib_beta > 0:
            parts["vib"] = self.vib_beta * (vib_loss(x, convention="prolip") + vib_loss(y, convention="prolip"))
        return parts if output_dict else torch.stack(list(parts.values())).sum()
