"""The contrastive loss between sounds and captions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from prolap.config.options import NotNegative, one_of
from prolap.training.terms.base import Logit, PairTerm, TermConfig, register
from prolap.training.views import Views, pair_ids, sum_over_pairs
from prolap_kernels import OBJECTIVES, pairwise_loss


@dataclass(frozen=True)
class PairsConfig(TermConfig):
    """Contrastive loss between sounds and captions: the model's score times an objective."""

    weight: NotNegative = 1.0
    """Weight in the total loss."""
    objective: Annotated[str, one_of(OBJECTIVES)] = "sigmoid"
    """What scores become: sigmoid (PPCL, SigLIP), softmax (InfoNCE, CLAP), or another name in prolap_kernels.OBJECTIVES."""


@register
class Pairs(PairTerm):
    """Loss of all clips and captions of the batch (score times objective), divided by the clips that count.

    `prolap.training.views.pair_ids` says which captions are positive for several clips. An objective that is a sum over pairs
    sums the columns of these ids with their weights; one that averages (softmax) has one column, and no bias.
    """

    name = "pairs"
    config = PairsConfig

    def loss(self, views: Views, config: PairsConfig, logit: Logit) -> Tensor:
        options: dict[str, Any] = {"score": logit.score, "scale": logit.scale, "objective": config.objective}
        if OBJECTIVES[config.objective].averages:
            ids = pair_ids(views.batch, views.shared, one_column=True)
            return pairwise_loss(views.audio, views.text, x_id=ids.clip[:, 0], y_id=ids.caption, **options)
        rows = torch.arange(len(views.batch), device=views.audio.mean.device)
        return sum_over_pairs(views, (views.audio, rows), (views.text, rows), rows, bias=logit.bias, **options)
