"""A sound lies inside its caption."""

from __future__ import annotations

from prolap.training.terms.base import InclusionConfig, Levels, MatchedTerm, register
from prolap_kernels import Inclusion, Vib


@register
class CrossInclusion(MatchedTerm):
    """Inclusion loss of matched rows, audio in text.

    Our reading: a mixed sound lies inside the joined caption too; the mean of the unmixed rows' loss and that of each level
    of mixtures.
    """

    name = "cross_inclusion"
    config = InclusionConfig
    uses_mixtures = True

    def entries(self, levels: Levels, config: InclusionConfig) -> list[Inclusion | Vib]:
        views = levels.views
        mixed = 0 if views.partner is None else len(views.copies("audio"))
        own = config.inclusion((levels.index("audio"), levels.index("text")))
        joined = [config.inclusion((levels.index("audio", k), levels.index("text", 1))) for k in range(1, mixed + 1)]
        return [own, *joined]
