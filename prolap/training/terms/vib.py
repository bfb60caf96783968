"""The variational information bottleneck."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prolap.training.terms.base import Levels, MatchedTerm, TermConfig, register
from prolap.training.views import MODALITIES
from prolap_kernels import Inclusion, Vib


@dataclass(frozen=True)
class VibConfig(TermConfig):
    """KL(Z || N(0, I)), mean over rows and dimensions."""

    convention: Literal["exact", "prolip"] = "exact"
    """`exact` is the formula as derived, `prolip` what ProLIP's public code computes."""


@register
class VariationalBottleneck(MatchedTerm):
    """KL(Z || N(0, I)), mean over rows and dimensions; our reading: the mean of both modalities, without masked or mixed rows."""

    name = "vib"
    config = VibConfig

    def entries(self, levels: Levels, config: VibConfig) -> list[Inclusion | Vib]:
        return [Vib(levels.index(modality), config.convention) for modality in MODALITIES]
