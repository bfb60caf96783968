"""The weighted terms of the training loss, by name; every formula is one of prolap_kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import update_wrapper
from typing import Any

import torch
from torch import Tensor

from prolap.config import InclusionTerm, LossConfig, MaskedPairTerm, PairTerm, RepulsionTerm, VibTerm
from prolap.training.pairing import pair_ids
from prolap.training.views import Views as Views
from prolap_kernels import Gaussian, Inclusion, Vib, mask_repulsive_loss, matched_losses, pairwise_loss

PARTNER = -1  # the level of the rows that the mixtures were made with


class Levels:
    """The embeddings that the matched terms of a step look at, gathered as they are asked for."""

    def __init__(self, views: Views) -> None:
        self.views = views
        self._places: dict[tuple[str, int], int] = {}

    def at(self, modality: str, level: int = 0) -> int:
        """The place of a modality as it is (level 0), of its copies, from level 1, or of the PARTNER of each mixture."""
        return self._places.setdefault((modality, level), len(self._places))

    def copies(self, modality: str) -> int:
        """How many copies a modality has."""
        return len(getattr(self.views, f"masked_{modality}"))

    def gaussians(self) -> list[Gaussian]:
        """All that were asked for, by their places."""
        return [self._gaussian(modality, level) for modality, level in self._places]

    def _gaussian(self, modality: str, level: int) -> Gaussian:
        if level > 0:
            copy: Gaussian = getattr(self.views, f"masked_{modality}")[level - 1]
            return copy
        rows: Gaussian = getattr(self.views, modality)
        return rows.rows(self.views.partner) if level == PARTNER and self.views.partner is not None else rows


class Matched:
    """A term over matched rows, the mean of what `describe(levels, its configuration)` lists. Those of a step are one call."""

    def __init__(self, describe: Callable[[Levels, Any], list[Inclusion | Vib]]) -> None:
        update_wrapper(self, describe)
        self.describe = describe

    def __call__(self, views: Views, term: Any, scale: Tensor, bias: Tensor) -> Tensor:
        return matched(views, {"alone": (self, term)})[0]["alone"]


def matched(views: Views, wanted: Mapping[str, tuple[Matched, Any]]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Unweighted terms by name, and the share of saturated rows of those with inclusions; wanted: terms and configurations."""
    levels = Levels(views)
    listed = {name: term.describe(levels, config) for name, (term, config) in wanted.items()}
    flat = [entry for entries in listed.values() for entry in entries]
    if not flat:
        return {}, {}
    values, shares = matched_losses(levels.gaussians(), flat, stats=True)
    losses, saturated, start = {}, {}, 0
    for name, entries in listed.items():
        at = slice(start, start + len(entries))
        start = at.stop
        losses[name] = values[at.start] if len(entries) == 1 else torch.stack(values[at]).mean()
        if isinstance(entries[0], Inclusion):
            saturated[name] = shares[at].mean()
    return losses, saturated


def pairs(views: Views, term: PairTerm, scale: Tensor, bias: Tensor) -> Tensor:
    """Contrastive loss of all clips and captions of the batch (score x objective), divided by the clips that count.

    Shared captions as in `prolap.training.pairing.pair_ids`; the sigmoid's pairs are additive, so that the columns of "positive"
    are summed with their weights. softmax has no bias.
    """
    if term.objective == "sigmoid":
        rows = torch.arange(len(views.batch), device=views.audio.mean.device)
        return _across(views, (views.audio, rows), (views.text, rows), rows, _options(term, scale, bias))
    ids = pair_ids(views.batch, views.shared, one_column=True)
    x_id, y_id = ids.clip[:, 0], ids.caption
    return pairwise_loss(
        views.audio, views.text, score=term.score, objective="softmax", scale=scale, x_id=x_id, y_id=y_id
    )


def masked_pairs(views: Views, term: MaskedPairTerm, scale: Tensor, bias: Tensor) -> Tensor:
    """Masked copies against the other modality unmasked, positives and negatives as those of the rows they were made of.

    R, an option of ours; what it costs and changes on the scenes stands in benchmarks/results/recipes. Divided by the
    masked rows that count, mean of both modalities.

    Mixtures: mixed sounds against joined captions, the own positive and all others negative, the sum over all levels divided
    by the mixed sounds (R). They do not meet unmixed rows: a clip would be a negative of the mixture that it sounds in.
    """
    options = _options(term, scale, bias)
    if views.partner is not None:
        return _mixed_pairs(views, options)
    return _mean([_against_other(views, modality, options) for modality in ("audio", "text")])


@Matched
def cross_inclusion(levels: Levels, term: InclusionTerm) -> list[Inclusion | Vib]:
    """A sound lies inside its caption: inclusion loss of matched rows, audio in text.

    R: a mixed sound lies inside the joined caption too; the mean of the unmixed rows' loss and that of each mixing level.
    """
    mixed = levels.copies("audio") if levels.views.partner is not None else 0
    own = _inclusion((levels.at("audio"), levels.at("text")), term)
    return [own, *(_inclusion((levels.at("audio", k), levels.at("text", 1)), term) for k in range(1, mixed + 1))]


@Matched
def hierarchy(levels: Levels, term: InclusionTerm) -> list[Inclusion | Vib]:
    """What is masked less lies inside what is masked more: mean over the links of Z0, Z1, ... of each modality.

    R: the mean of both modalities (of the one that has masked copies, if only one has); links that mask nothing new are
    dropped.

    Mixtures: a source lies inside the purest, a purer one inside a more even one, and, as another term of the mean, the partner
    inside the most even one (R: the partner is faint in the purest); captions inside the joined caption of both.
    """
    entries: list[Inclusion | Vib] = []
    for modality in ("audio", "text"):
        last, links = levels.copies(modality), getattr(levels.views, f"{modality}_links")
        if not last:
            continue
        entries.append(_inclusion(tuple(levels.at(modality, level) for level in range(last + 1)), term, links))
        if levels.views.partner is not None:
            pair = (levels.at(modality, PARTNER), levels.at(modality, last))
            entries.append(_inclusion(pair, term, None if links is None else links.any(dim=0, keepdim=True)))
    return entries


@Matched
def vib(levels: Levels, term: VibTerm) -> list[Inclusion | Vib]:
    """KL(Z || N(0, I)), mean over rows and dimensions; R: the mean of both modalities, neither masked nor mixed rows."""
    return [Vib(levels.at(modality), term.convention) for modality in ("audio", "text")]


def repulsion(views: Views, term: RepulsionTerm, scale: Tensor, bias: Tensor) -> Tensor:
    """Masked embeddings against those of other samples: sum over pairs of -log sigmoid(-logit), over the masked rows.

    R, all of it but the idea: `partner` says who the others are; "cross" the other modality unmasked, "same" the same
    modality unmasked, "level" the masked ones of the same level (mean over levels). A sample is never repelled from
    its own rows, nor, unless shared captions are kept as negatives, from captions that hold for it. Mean of both
    modalities. Not for mixtures (ValueError): they would be repelled from the clip that they were mixed with.
    """
    if views.partner is not None:
        raise ValueError(
            "repulsion: got mixtures, want masked copies; a mixture would be repelled from its own partner."
        )
    return _mean([_repel(views, modality, term, scale, bias) for modality in ("audio", "text")])


TERMS: dict[str, Callable[[Views, Any, Tensor, Tensor], Tensor]] = {
    "pairs": pairs,
    "masked_pairs": masked_pairs,
    "cross_inclusion": cross_inclusion,
    "hierarchy": hierarchy,
    "vib": vib,
    "repulsion": repulsion,
}
"""Name of a field of LossConfig -> term(views, its configuration, scale, bias) -> 0-d tensor, unweighted."""


def all_terms(
    views: Views, config: LossConfig, scale: Tensor, bias: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Unweighted terms that count, and the share of saturated rows of the inclusion terms, by name; matched rows in one call."""
    active = active_terms(config)
    together = {name: (term, active[name]) for name in active if isinstance(term := TERMS[name], Matched)}
    found, saturated = matched(views, together)
    losses = {
        name: found[name] if name in found else TERMS[name](views, term, scale, bias) for name, term in active.items()
    }
    return losses, saturated


def active_terms(config: LossConfig) -> dict[str, Any]:
    """The terms that are computed: those of weight other than 0, with their configuration."""
    active = {name: getattr(config, name) for name in TERMS if getattr(config, name).weight}
    if not active:
        raise ValueError("loss: every term has weight 0, want at least one that counts.")
    return active


def needs_masks(config: LossConfig) -> bool:
    """Whether a term that counts looks at masked copies (or at mixtures in their place)."""
    return bool({"masked_pairs", "hierarchy", "repulsion"} & active_terms(config).keys())


def _repel(views: Views, modality: str, term: RepulsionTerm, scale: Tensor, bias: Tensor) -> Tensor | None:
    copies = getattr(views, f"masked_{modality}")
    if not copies:
        return None
    if term.partner == "cross":
        return _against_other(views, modality, _options(term, scale, bias) | {"negatives_only": True})
    ids = views.batch.index if modality == "audio" else pair_ids(views.batch, views.shared, one_column=True).caption
    if term.partner == "same":
        masked, source = views.masked(modality)
        return mask_repulsive_loss(
            masked, getattr(views, modality), scale, bias, masked_id=ids[source], other_id=ids, score=term.score
        )
    if term.partner != "level":
        raise ValueError(f'repulsion.partner: got {term.partner!r}, want "cross", "same" or "level".')
    ids = ids[: len(copies[0].mean)]
    levels = [
        mask_repulsive_loss(level, level, scale, bias, masked_id=ids, other_id=ids, score=term.score)
        for level in copies
    ]
    return torch.stack(levels).mean()


def _against_other(views: Views, modality: str, options: dict[str, Any]) -> Tensor | None:
    """Masked copies of one modality against all rows of the other, over the masked rows; None where there are none."""
    if not getattr(views, f"masked_{modality}"):
        return None
    masked, source = views.masked(modality)
    every = torch.arange(len(views.batch), device=source.device)
    if modality == "audio":
        return _across(views, (masked, source), (views.text, every), source, options)
    return _across(views, (views.audio, every), (masked, source), source, options)


def _mixed_pairs(views: Views, options: dict[str, Any]) -> Tensor:
    """Mixed sounds of all levels against the joined captions, over the mixed sounds; the same two clips share an id."""
    clips, partner = views.batch.index, views.partner
    pair = torch.stack([clips[: len(partner)], clips[partner]], dim=1).sort(dim=1).values  # type: ignore[arg-type,index]
    ids = pair.unique(dim=0, return_inverse=True)[1]
    sounds, source = views.masked("audio")
    joined = views.masked_text[0]
    return pairwise_loss(sounds, joined, x_id=ids[source], y_id=ids, reduction="rows", **options)


def _across(
    views: Views,
    sounds: tuple[Gaussian, Tensor],
    texts: tuple[Gaussian, Tensor],
    counted: Tensor,
    options: dict[str, Any],
) -> Tensor:
    """Sum of the sigmoid loss over pairs, divided by the rows `counted` that are not left out.

    sounds, texts: embeddings, and the rows of the batch that they were made of.
    """
    ids = pair_ids(views.batch, views.shared)
    (audio, clips), (text, captions) = sounds, texts
    losses = []
    for at, clip_id, caption_id, weight in ids.blocks(clips, captions):
        loss = pairwise_loss(audio, text.rows(at), x_id=clip_id, y_id=caption_id, reduction="sum", **options)
        # negatives alone hold no positives that could outweigh anything
        losses.append(loss if options.get("negatives_only") else weight * loss)
    return torch.stack(losses).sum() / ids.counted(counted)


def _options(term: PairTerm | MaskedPairTerm | RepulsionTerm, scale: Tensor, bias: Tensor) -> dict[str, Any]:
    return {"score": term.score, "scale": scale, "bias": bias}


def _mean(losses: list[Tensor | None]) -> Tensor:
    return torch.stack([loss for loss in losses if loss is not None]).mean()


def _inclusion(chain: tuple[int, ...], term: InclusionTerm, valid: Tensor | None = None) -> Inclusion:
    return Inclusion(chain, term.scale, term.convention, term.reduce_dims, valid, term.detach_mean)
