"""Embeddings of a data set: sounds, captions and their masked versions as Gaussians on the CPU.

Each sound is read once for all models. Masks come from (seed, purpose, batch), so a model and a baseline of the same
token grid see the same masks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prolap.config import MaskConfig
from prolap.data.dataset import in_order
from prolap.data.masking import recursive_masks
from prolap.models.model import concatenate, evaluating
from prolap.utils.progress import watched
from prolap.utils.seeding import numpy_generator, torch_generator
from prolap_kernels import SCORES, Gaussian

BATCH = 128
TEXT_BATCH = 512
MASKED_SAMPLES = 1000
DEFAULT_SCORE = "csd"
NO_BASELINE = "no baseline was given"
"""The reason of a value that compares with one."""


@dataclass(frozen=True)
class Embedded:
    """Samples and, for some of them, ever more masked versions."""

    plain: Gaussian
    """[N, D]"""
    rows: Tensor
    """[n] which samples were masked."""
    masked: list[Gaussian]
    """[n, D] for each mask level, level 1 first."""
    share: Tensor
    """[levels, n] share of the maskable tokens that is masked."""

    def level(self, index: int) -> tuple[Gaussian, Gaussian, Tensor]:
        """x, m and the rows of `rows` kept for mask level `index` (0 is level 1): those where a token is masked."""
        kept = torch.nonzero(self.share[index] > 0).flatten()
        return self.plain.rows(self.rows[kept]), self.masked[index].rows(kept), kept


def score_of(model: Any) -> str:
    """The score of a pair's logit in this model: `config.model.score`, or csd for a model without configuration."""
    config = getattr(model, "config", None)
    return DEFAULT_SCORE if config is None else str(config.model.score)


def is_probabilistic(score: str) -> bool:
    """Whether a model with this score has log-variances that mean something."""
    return SCORES[score].uses_logvar


def unit_variance(z: Gaussian) -> Gaussian:
    """The same means with unit variances: for a deterministic model, whose log-variances mean nothing."""
    return Gaussian(z.mean, torch.zeros_like(z.logvar))


def rows_to_mask(clips: int, seed: int) -> Tensor:
    """The samples that are masked: all, or a seeded `MASKED_SAMPLES` of them; ascending."""
    if clips <= MASKED_SAMPLES:
        return torch.arange(clips)
    draw = numpy_generator(seed, "masked samples").permutation(clips)[:MASKED_SAMPLES]
    return torch.from_numpy(np.sort(draw))


def masked_sounds(
    model: Any, audio: Tensor, frames: Tensor, mask: MaskConfig, generator: torch.Generator
) -> tuple[list[Gaussian], Tensor]:
    """`mask.audio_copies` recursively masked embeddings of a batch of sounds, and the share masked [copies, B]."""
    device = _device(model)
    audio, frames = audio.to(device), frames.to(device)
    masks, share = _masks(model.audio_grid(audio, frames), mask.audio_copies, mask.ratio, generator)
    return [_cpu(model.encode_audio(audio, frames, masked=m.to(device), mode=mask.mode)) for m in masks], share


def masked_texts(
    model: Any, texts: Sequence[str], mask: MaskConfig, generator: torch.Generator
) -> tuple[list[Gaussian], Tensor]:
    """`mask.text_copies` recursively masked embeddings of a batch of captions, and the share masked [copies, B]."""
    device = _device(model)
    tokens = model.vocabulary(list(texts)).to(device)
    masks, share = _masks(model.text_grid(tokens), mask.text_copies, mask.ratio, generator)
    return [_cpu(model.encode_text(tokens, masked=m.to(device), mode=mask.mode)) for m in masks], share


def embed_sounds(
    models: Sequence[Any], data: Any, mask: MaskConfig | None = None, *, seed: int = 0, workers: int = 0
) -> list[Embedded]:
    """Every sound of the data set by every model, and masked versions of `rows_to_mask` unless `mask` is None.

    `workers` processes read ahead.
    """
    rows = rows_to_mask(len(data), seed) if mask else torch.zeros(0, dtype=torch.int64)
    plain: list[list[Gaussian]] = [[] for _ in models]
    masked: list[list[list[Gaussian]]] = [[] for _ in models]
    shares: list[Tensor] = []
    with evaluating(*models):
        batches = in_order(data, BATCH, workers)
        total = math.ceil(len(data) / BATCH)
        for (first, *_), audio, frames in watched(batches, f"Embedding {len(data):,} sounds", total):
            inside = rows[(rows >= first) & (rows < first + BATCH)] - first
            for number, model in enumerate(models):
                device = _device(model)
                plain[number].append(_cpu(model.encode_audio(audio.to(device), frames.to(device))))
                if mask and len(inside):
                    generator = torch_generator(seed, "evaluation masks", "audio", first)
                    copies, share = masked_sounds(model, audio[inside], frames[inside], mask, generator)
                    masked[number].append(copies)
                    if number == 0:
                        shares.append(share)
    share = torch.cat(shares, dim=1) if shares else torch.zeros(0, 0)
    return [Embedded(concatenate(p), rows, _levels(m), share) for p, m in zip(plain, masked, strict=True)]


def embed_texts(model: Any, texts: Sequence[str], what: str = "captions") -> Gaussian:
    """Captions to Gaussians, in the order of `texts`; `what` names them where progress is shown."""
    with evaluating(model):
        parts = [texts[first : first + TEXT_BATCH] for first in range(0, len(texts), TEXT_BATCH)]
        seen = watched(parts, f"Embedding {len(texts):,} {what}", len(parts)) if len(texts) > 1 else parts
        return concatenate([_cpu(model.embed_text(list(part))) for part in seen])


def embed_masked_texts(
    model: Any, texts: Sequence[str], mask: MaskConfig, *, seed: int = 0, plain: Gaussian | None = None
) -> Embedded:
    """Captions with their masked versions; `plain`: their own embeddings where these are known already."""
    masked, shares = [], []
    firsts = range(0, len(texts), TEXT_BATCH)
    with evaluating(model):
        for first in watched(firsts, f"Embedding {len(texts):,} captions, masked", len(firsts)):
            generator = torch_generator(seed, "evaluation masks", "text", first)
            copies, share = masked_texts(model, texts[first : first + TEXT_BATCH], mask, generator)
            masked.append(copies)
            shares.append(share)
    plain = embed_texts(model, texts) if plain is None else plain
    return Embedded(plain, torch.arange(len(texts)), _levels(masked), torch.cat(shares, dim=1))


def _device(model: Any) -> torch.device:
    parameter = next(iter(model.parameters()), None) if isinstance(model, nn.Module) else None
    return torch.device("cpu") if parameter is None else parameter.device


def _cpu(z: Gaussian) -> Gaussian:
    return Gaussian(z.mean.detach().float().cpu(), z.logvar.detach().float().cpu())


def _masks(grid: Tensor, copies: int, ratio: float, generator: torch.Generator) -> tuple[list[Tensor], Tensor]:
    grid = grid.cpu()
    masks = recursive_masks(grid, copies, ratio, generator)
    visible = grid.sum(1).clamp(min=1)
    return masks, torch.stack([m.sum(1) / visible for m in masks]) if masks else torch.zeros(0, len(grid))


def _levels(batches: list[list[Gaussian]]) -> list[Gaussian]:
    return [concatenate(parts) for parts in zip(*batches, strict=True)]
