"""From a batch to the total loss and what is logged of it."""

from __future__ import annotations

import torch
from torch import Tensor

from prolap.config import Config, MaskConfig
from prolap.data.batch import Batch
from prolap.data.masking import new_links, recursive_masks
from prolap.losses import Views, all_terms, needs_masks
from prolap.model import ProLAP
from prolap_kernels import Gaussian


def training_losses(
    model: ProLAP, batch: Batch, config: Config, generator: torch.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """L = sum over terms of weight · term; returns L (0-d, float32) and the logs, detached 0-d tensors by name.

    Logs: `loss/<term>` unweighted, only of terms that count; `saturated/<term>` of the inclusion terms, the share of rows
    that hardly teach any more (docs/inclusion.md), mean over their chains; `scale`, `bias`; of both modalities
    `uncertainty/<modality>` (mean log-variance), `_trace` (mean over rows of the sum of variances), `_spread`
    (standard deviation over rows of a row's mean log-variance: 0 is collapse), `_masked_<level>` (mean log-variance
    of the masked copies, from level 1, if any term needs them) and `bounds/<modality>`, the share of log-variances
    next to a bound. `generator` draws the masks and nothing else. Works under autocast; scale, bias and both heads
    stay float32.
    """
    views = encode_views(model, batch, config, generator)
    scale, bias = model.scale, model.bias
    logs: dict[str, Tensor] = {}
    weighted = []
    losses, saturated = all_terms(views, config.loss, scale, bias)
    for name, loss in losses.items():
        logs[f"loss/{name}"] = loss.detach()
        weighted.append(getattr(config.loss, name).weight * loss)
    logs |= {f"saturated/{name}": share for name, share in saturated.items()}
    logs |= {"scale": scale.detach(), "bias": bias.detach().clone()}
    with torch.no_grad():
        logs |= _statistics("audio", views.audio, views.masked_audio)
        logs |= _statistics("text", views.text, views.masked_text)
        logs["bounds/audio"] = model.audio_head.saturated(views.audio.logvar)
        logs["bounds/text"] = model.text_head.saturated(views.text.logvar)
    return torch.stack(weighted).sum(), logs


def encode_views(model: ProLAP, batch: Batch, config: Config, generator: torch.Generator) -> Views:
    """Embed a batch, and masked copies of its first max(1, round(share · B)) rows if a term needs them."""
    audio, text = model.encode_audio(batch.audio, batch.frames), model.encode_text(batch.tokens)
    shared = config.data.shared_captions
    if not needs_masks(config.loss):
        return Views(audio, text, batch, shared=shared)
    mask = config.mask
    if not mask.audio_copies and not mask.text_copies:
        raise ValueError("mask: audio_copies and text_copies are both 0, but a loss term needs masked copies.")
    rows = max(1, round(mask.share * len(batch)))
    sound, frames, tokens = batch.audio[:rows], batch.frames[:rows], batch.tokens[:rows]
    masks = _draw(model.audio_grid(sound, frames), mask.audio_copies, mask, generator)
    masked_audio: list[Gaussian] = []
    if masks:
        n = len(masks)
        stacked = model.encode_audio(sound.repeat(n, 1, 1), frames.repeat(n), torch.cat(masks), mask.mode)
        masked_audio = _unstack(stacked, n)
    audio_links = new_links(masks) if masks else None
    masks = _draw(model.text_grid(tokens), mask.text_copies, mask, generator)
    masked_text: list[Gaussian] = []
    if masks:
        n = len(masks)
        masked_text = _unstack(model.encode_text(tokens.repeat(n, 1), torch.cat(masks), mask.mode), n)
    text_links = new_links(masks) if masks else None
    return Views(audio, text, batch, masked_audio, masked_text, audio_links, text_links, shared)


def _draw(grid: Tensor, copies: int, mask: MaskConfig, generator: torch.Generator) -> list[Tensor]:
    return recursive_masks(grid, copies, mask.ratio, generator) if copies else []


def _unstack(stacked: Gaussian, copies: int) -> list[Gaussian]:
    return [Gaussian(*level) for level in zip(stacked.mean.chunk(copies), stacked.logvar.chunk(copies), strict=True)]


def _statistics(modality: str, view: Gaussian, masked: list[Gaussian]) -> dict[str, Tensor]:
    uncertainty = view.uncertainty
    logs = {
        f"uncertainty/{modality}": uncertainty.mean(),
        f"uncertainty/{modality}_trace": view.var.sum(dim=-1).mean(),
        f"uncertainty/{modality}_spread": uncertainty.std(correction=0),
    }
    return logs | {
        f"uncertainty/{modality}_masked_{level}": copy.uncertainty.mean() for level, copy in enumerate(masked, 1)
    }
