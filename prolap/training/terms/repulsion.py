"""Masked embeddings are repelled from those of other samples (the mask repulsive loss)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from prolap.training.terms.base import Logit, PairTerm, TermConfig, register
from prolap.training.views import MODALITIES, Views, against_other, mean, pair_ids
from prolap_kernels import mask_repulsive_loss


@dataclass(frozen=True)
class RepulsionConfig(TermConfig):
    """Masked embeddings against other samples' embeddings, negatives only."""

    score: str | None = None
    """How alike two embeddings are; None takes `model.score`."""
    partner: Literal["cross", "same", "level"] = "cross"
    """The other modality unmasked, the same modality unmasked, or masked ones of the same level."""


@register
class Repulsion(PairTerm):
    """Masked embeddings against those of other samples: sum over pairs of -log sigmoid(-logit), over the masked rows.

    Our reading, all of it but the idea. `partner` says who the others are: "cross" the other modality unmasked, "same" the same
    modality unmasked, "level" the masked ones of the same level (mean over levels). A sample is never repelled from
    its own rows, nor from captions that hold for it, unless `shared_captions` keeps these as negatives. Mean of both
    modalities.
    """

    name = "repulsion"
    config = RepulsionConfig
    needs_masks = MODALITIES
    uses_mixtures = True
    refuses_mixtures = "a mixture would be repelled from the clip that it was mixed with"

    def loss(self, views: Views, config: RepulsionConfig, logit: Logit) -> Tensor:
        if views.partner is not None:
            raise ValueError(f"repulsion: got mixtures, want masked copies; {self.refuses_mixtures}.")
        logit = self.logit(config, logit)
        return mean([_repel(views, modality, config.partner, logit) for modality in self.needs_masks])


def _repel(views: Views, modality: str, partner: str, logit: Logit) -> Tensor | None:
    copies, (score, scale, bias) = views.copies(modality), logit
    if not copies:
        return None
    if partner == "cross":
        return against_other(views, modality, negatives_only=True, **logit._asdict())
    ids = views.batch.index if modality == "audio" else pair_ids(views.batch, views.shared, one_column=True).caption
    if partner == "same":
        masked, source = views.stacked(modality)
        others = getattr(views, modality)
        return mask_repulsive_loss(masked, others, scale, bias, masked_id=ids[source], other_id=ids, score=score)
    if partner != "level":
        raise ValueError(f'repulsion.partner: got {partner!r}, want "cross", "same" or "level".')
    ids = ids[: len(copies[0].mean)]
    levels = [mask_repulsive_loss(z, z, scale, bias, masked_id=ids, other_id=ids, score=score) for z in copies]
    return torch.stack(levels).mean()
