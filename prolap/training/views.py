"""A batch as the model sees it, which is what the terms of the loss look at."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from prolap.data.batch import Batch
from prolap.training.pairing import Shared
from prolap_kernels import Gaussian


@dataclass(frozen=True)
class Views:
    """One batch as the model sees it: B matched rows, and copies of its first b rows that are ever more general.

    Copies are masked ones (ProLAP) or, where `partner` is given, mixtures with another row (MixProLAP): several levels of mixed
    sounds, one level of joined captions. The fields and terms are named after the masks.
    """

    audio: Gaussian
    text: Gaussian
    batch: Batch
    masked_audio: list[Gaussian] = field(default_factory=list)
    """Level by level, each [b, D]; every level masks what the one before masks, and more, or is a more even mixture."""
    masked_text: list[Gaussian] = field(default_factory=list)
    audio_links: Tensor | None = None
    """[copies, b] bool: this level masks something that the level before did not, or is mixed more evenly."""
    text_links: Tensor | None = None
    shared: Shared = "positive"
    """What a caption is to other clips whose chain holds it (DataConfig.shared_captions)."""
    partner: Tensor | None = None
    """[b] int64, the row that each of the first b was mixed with; None where copies are masked."""

    def masked(self, modality: str) -> tuple[Gaussian, Tensor]:
        """All masked copies of a modality, [N, D], and the row of the batch that each was made of, [N]."""
        copies: list[Gaussian] = getattr(self, f"masked_{modality}")
        source = torch.arange(len(copies[0].mean), device=copies[0].mean.device).repeat(len(copies))
        return Gaussian(torch.cat([c.mean for c in copies]), torch.cat([c.logvar for c in copies])), source
