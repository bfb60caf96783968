"""What is masked less lies inside what is masked more."""

from __future__ import annotations

from prolap.training.terms.base import PARTNER, InclusionConfig, Levels, MatchedTerm, register
from prolap.training.views import MODALITIES
from prolap_kernels import Inclusion, Vib


@register
class Hierarchy(MatchedTerm):
    """What is masked less lies inside what is masked more: mean over the links of Z0, Z1, ... of each modality.

    Our reading: the mean of both modalities (of the one that has masked copies, if only one has); links that mask nothing new
    are dropped.

    Mixtures: a source lies inside the purest, a purer one inside a more even one, and, as another term of the mean, the partner
    inside the most even one (our reading: the partner is faint in the purest); captions inside the joined caption of both.
    """

    name = "hierarchy"
    config = InclusionConfig
    needs_masks = MODALITIES
    uses_mixtures = True

    def entries(self, levels: Levels, config: InclusionConfig) -> list[Inclusion | Vib]:
        entries: list[Inclusion | Vib] = []
        for modality in self.needs_masks:
            last, links = len(levels.views.copies(modality)), levels.views.links(modality)
            if not last:
                continue
            chain = tuple(levels.index(modality, level) for level in range(last + 1))
            entries.append(config.inclusion(chain, links))
            if levels.views.partner is not None:
                pair = (levels.index(modality, PARTNER), levels.index(modality, last))
                entries.append(config.inclusion(pair, None if links is None else links.any(dim=0, keepdim=True)))
        return entries
