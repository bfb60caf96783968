"""The contrastive loss between sounds and captions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from prolap.training.terms.base import Logit, PairTerm, TermConfig
from prolap.training.views import Views, pair_ids, sigmoid_loss
from prolap_kernels import pairwise_loss


@dataclass(frozen=True)
class PairsConfig(TermConfig):
    """Contrastive loss between sounds and captions: the model's score times an objective."""

    weight: float = 1.0
    """Weight in the total loss."""
    objective: Literal["sigmoid", "softmax"] = "sigmoid"
    """What scores become: sigmoid (PPCL, SigLIP) or softmax (InfoNCE, CLAP)."""


class Pairs(PairTerm):
    """Loss of all clips and captions of the batch (score times objective), divided by the clips that count.

    Shared captions as in `prolap.training.views.pair_ids`; the sigmoid's pairs are additive, so that the columns of "positive"
    are summed with their weights. The softmax has no bias.
    """

    name = "pairs"
    config = PairsConfig

    def loss(self, views: Views, config: PairsConfig, logit: Logit) -> Tensor:
        if config.objective == "sigmoid":
            rows = torch.arange(len(views.batch), device=views.audio.mean.device)
            return sigmoid_loss(views, (views.audio, rows), (views.text, rows), rows, **logit._asdict())
        ids = pair_ids(views.batch, views.shared, one_column=True)
        options: dict[str, Any] = {"score": logit.score, "objective": config.objective, "scale": logit.scale}
        return pairwise_loss(views.audio, views.text, x_id=ids.clip[:, 0], y_id=ids.caption, **options)
