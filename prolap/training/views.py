"""What the terms of the loss look at: the embeddings of a batch, and which of its clips and captions belong together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from prolap.data.batch import LEVELS, Batch
from prolap.models.model import concatenate
from prolap_kernels import Gaussian, pairwise_loss

MODALITIES = ("audio", "text")
Shared = Literal["keep", "ignore", "positive"]


@dataclass(frozen=True)
class Views:
    """One batch as the model sees it: B matched rows, and copies of its first b rows that are ever more general.

    Copies are masked ones (ProLAP) or, where `partner` is not None, mixtures with another row (MixProLAP): several levels of
    mixed sounds, one level of joined captions. The fields are named after the masks.
    """

    audio: Gaussian
    text: Gaussian
    batch: Batch
    masked_audio: list[Gaussian] | None = None
    """Level by level, each [b, D]; every level masks what the one before masks, and more, or is a more even mixture. None where
    no term needs them."""
    masked_text: list[Gaussian] | None = None
    audio_links: Tensor | None = None
    """[copies, b] bool: this level masks something that the level before did not, or is mixed more evenly."""
    text_links: Tensor | None = None
    shared: Shared = "positive"
    """What a caption is to other clips whose chain holds it (DataConfig.shared_captions)."""
    partner: Tensor | None = None
    """[b] int64, the row that each of the first b was mixed with; None where copies are masked."""

    def copies(self, modality: str) -> list[Gaussian]:
        """The copies of a modality, level by level. Errors: ValueError if no term said that it needs them."""
        copies: list[Gaussian] | None = getattr(self, f"masked_{modality}")
        if copies is None:
            raise ValueError(f"masked {modality}: nothing was masked; name the modality in the term's `needs_masks`.")
        return copies

    def stacked(self, modality: str) -> tuple[Gaussian, Tensor]:
        """All copies of a modality, [N, D], and the row of the batch that each was made of, [N]."""
        copies = self.copies(modality)
        source = torch.arange(len(copies[0].mean), device=copies[0].mean.device).repeat(len(copies))
        return concatenate(copies), source

    def links(self, modality: str) -> Tensor | None:
        """`audio_links` or `text_links`."""
        links: Tensor | None = getattr(self, f"{modality}_links")
        return links


class Block(NamedTuple):
    """All clips against some of the captions: equal ids are positive, different ones negative, -1 is left out."""

    captions: Tensor
    """Positions of this block's captions among the caption rows asked for."""
    clip_id: Tensor
    caption_id: Tensor
    weight: Tensor
    """Factor on the block's loss, a 0-d tensor."""


@dataclass(frozen=True)
class PairIds:
    """Ids of a batch in columns: a caption is compared in its own column, where every clip has an id.

    A caption's column is its level of the chain, and a clip's id there the node that its chain holds on that level;
    so a caption is positive for exactly the clips whose chain holds its node, which one id per clip could not say.
    """

    clip: Tensor
    """[B, columns] int64."""
    caption: Tensor
    """[B] int64."""
    column: Tensor
    """[B] int64."""
    balanced: bool = False
    """Weigh a column by one over the mean number of positives of its captions: a general caption of a hundred clips
    would otherwise count a hundred times, and drown the specific ones."""

    def blocks(self, clips: Tensor, captions: Tensor) -> Iterator[Block]:
        """The pairs of these clips and captions (rows of the batch, repeatable) as one block for each used column."""
        column = self.column[captions]
        for number in range(self.clip.shape[1]):
            rows = (column == number).nonzero()[:, 0]
            if len(rows):
                yield Block(rows, self.clip[clips, number], self.caption[captions[rows]], self._weight(number))

    def _weight(self, number: int) -> Tensor:
        if not self.balanced:
            return torch.ones((), device=self.clip.device)
        captions = self.caption[self.column == number]
        positives = (self.clip[:, number, None] == captions).sum() / max(len(captions), 1)
        return 1 / positives.clamp(min=1)

    def counted(self, clips: Tensor) -> Tensor:
        """How many of these clips (rows of the batch) are not left out; a 0-d tensor, at least 1."""
        return (self.clip[clips] >= 0).any(dim=1).sum().clamp(min=1)


def pair_ids(batch: Batch, shared: Shared, one_column: bool = False) -> PairIds:
    """Ids of a batch for a way to treat captions that hold for several of its clips.

    keep: only a clip's own captions are positive (captions with the same clip `index` share its id).
    ignore: when a caption's node was drawn before in the batch, that pair is left out on both sides.
    positive: every clip whose chain holds the caption's node is positive, and the pairs of a level weigh one over the
    mean number of positives of its captions (our reading). Captions of unknown level or node, and
    clips of unknown chain, fall back to the clip's index.
    `one_column` is for objectives that cannot be summed over columns (softmax): there "positive" makes clips positive
    that drew captions of one node, and a clip that holds the node but drew another caption stays a negative.
    """
    if shared not in ("keep", "ignore", "positive"):
        raise ValueError(f'shared_captions: got {shared!r}, want "keep", "ignore" or "positive".')
    first = torch.zeros_like(batch.index)
    if shared == "keep":
        return PairIds(batch.index[:, None], batch.index, first)
    known, drawn = _drawn(batch)
    if shared == "ignore":
        index = torch.where(known & _repeated(drawn), -1, batch.index)
        return PairIds(index[:, None], index, first)
    if one_column:
        return PairIds(drawn[:, None], drawn, first)
    strange = batch.chain.numel() + batch.index[:, None]  # no node has such a number
    clip = torch.cat([torch.where(batch.chain >= 0, _numbered(batch.chain), strange), batch.index[:, None]], dim=1)
    column = torch.where(known, batch.level, LEVELS)
    caption = clip.gather(1, column[:, None])[:, 0]
    return PairIds(clip, caption, column, balanced=True)


def _drawn(batch: Batch) -> tuple[Tensor, Tensor]:
    """Whether a caption's node is known, [B] bool, and an id of that node (of the clip's index where unknown), [B]."""
    node = batch.chain.gather(1, batch.level.clamp(min=0)[:, None])[:, 0]
    known = (batch.level >= 0) & (node >= 0)
    number = _numbered(batch.chain).gather(1, batch.level.clamp(min=0)[:, None])[:, 0]
    by_node = number * LEVELS + batch.level  # nodes of different levels may be numbered alike
    return known, torch.where(known, by_node, batch.chain.numel() * LEVELS + batch.index)


def _numbered(chain: Tensor) -> Tensor:
    """The nodes as numbers from 0 to 4 B - 1: nodes may be hashes as large as int64 holds."""
    return chain.unique(return_inverse=True)[1]


def _repeated(ids: Tensor) -> Tensor:
    """[B] bool: an earlier row has the same id."""
    row = torch.arange(len(ids), device=ids.device)
    values, inverse = ids.unique(return_inverse=True)
    first = torch.full_like(values, len(ids)).scatter_reduce(0, inverse, row, "amin")
    return first[inverse] < row


def sum_over_pairs(
    views: Views, sounds: tuple[Gaussian, Tensor], texts: tuple[Gaussian, Tensor], counted: Tensor, **options: Any
) -> Tensor:
    """Loss summed over pairs, divided by the rows `counted` that are not left out.

    sounds, texts: embeddings, and the rows of the batch that they were made of. options: those of `pairwise_loss`; the objective,
    sigmoid unless one is named, is a sum over pairs.
    """
    ids = pair_ids(views.batch, views.shared)
    (audio, clips), (text, captions) = sounds, texts
    losses = []
    for block in ids.blocks(clips, captions):
        pairs: dict[str, Any] = {"x_id": block.clip_id, "y_id": block.caption_id}
        loss = pairwise_loss(audio, text.rows(block.captions), reduction="sum", **pairs, **options)
        # negatives alone hold no positives that could outweigh anything
        losses.append(loss if options.get("negatives_only") else block.weight * loss)
    return torch.stack(losses).sum() / ids.counted(counted)


def against_other(views: Views, modality: str, **options: Any) -> Tensor | None:
    """Sigmoid loss of one modality's copies against all rows of the other, over the copies; None where there are none."""
    if not views.copies(modality):
        return None
    copies, source = views.stacked(modality)
    every = torch.arange(len(views.batch), device=source.device)
    if modality == "audio":
        return sum_over_pairs(views, (copies, source), (views.text, every), source, **options)
    return sum_over_pairs(views, (views.audio, every), (copies, source), source, **options)


def mean(losses: Sequence[Tensor | None]) -> Tensor:
    """The mean of those that are there."""
    return torch.stack([loss for loss in losses if loss is not None]).mean()
