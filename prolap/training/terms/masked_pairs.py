"""Masked copies, or mixtures, as rows of a contrastive loss of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prolap.training.terms.base import Logit, PairTerm, TermConfig, register
from prolap.training.views import MODALITIES, Views, against_other, mean
from prolap_kernels import pairwise_loss


@dataclass(frozen=True)
class MaskedPairsConfig(TermConfig):
    """Sigmoid loss between masked copies and the other modality unmasked: the own sample positive, all others negative."""

    score: str | None = None
    """How alike a masked copy and the other side are; None takes `model.score`."""


@register
class MaskedPairs(PairTerm):
    """Masked copies against the other modality unmasked, positives and negatives as those of the rows they were made of.

    Our reading, and an option of ours; what it costs and changes on the scenes stands in benchmarks/results/recipes. Divided by
    the masked rows that count, mean of both modalities.

    Mixtures: mixed sounds against joined captions, the own one positive and all others negative, the sum over all levels divided
    by the mixed sounds (our reading). They do not meet unmixed rows: a clip would be a negative of the mixture that it sounds in.
    """

    name = "masked_pairs"
    config = MaskedPairsConfig
    needs_masks = MODALITIES
    uses_mixtures = True

    def loss(self, views: Views, config: MaskedPairsConfig, logit: Logit) -> Tensor:
        options = self.logit(config, logit)._asdict()
        if views.partner is not None:
            return _mixed_pairs(views, views.partner, options)
        return mean([against_other(views, modality, **options) for modality in self.needs_masks])


def _mixed_pairs(views: Views, partner: Tensor, options: dict[str, Any]) -> Tensor:
    """Mixed sounds of all levels against the joined captions, over the mixed sounds; the same two clips share an id."""
    clips = views.batch.index
    pair = torch.stack([clips[: len(partner)], clips[partner]], dim=1).sort(dim=1).values
    ids = pair.unique(dim=0, return_inverse=True)[1]
    sounds, source = views.stacked("audio")
    joined = views.copies("text")[0]
    return pairwise_loss(sounds, joined, x_id=ids[source], y_id=ids, reduction="rows", **options)
