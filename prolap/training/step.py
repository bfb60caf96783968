"""From a batch to the total loss and what is logged of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prolap.data.batch import Batch
from prolap.data.masking import new_links, recursive_masks
from prolap.models.model import ProLAP
from prolap.training.config import Config
from prolap.training.gradcache import Encode
from prolap.training.memory import phase
from prolap.training.terms import Logit, all_terms, mixes, needs_masks
from prolap.training.views import Views
from prolap_kernels import Gaussian


def training_losses(
    model: ProLAP, batch: Batch, config: Config, generator: torch.Generator, encode: Encode | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """L = sum over terms of weight · term; returns L (0-d, float32) and the logs, detached 0-d tensors by name.

    Logs: `loss/<term>` unweighted, only of terms that count; `saturated/<term>` of the inclusion terms, the share of rows
    that hardly teach any more (docs/inclusion.md), mean over their chains; `scale`, `bias`; of both modalities
    `uncertainty/<modality>` (mean log-variance), `_trace` (mean over rows of the sum of variances), `_spread`
    (standard deviation over rows of a row's mean log-variance: 0 is collapse), `_masked_<level>` (mean log-variance
    of the masked copies, from level 1, if any term needs them; of mixtures, `_mixed_<level>`) and `bounds/<modality>`,
    the share of log-variances next to a bound. `generator` draws the masks and nothing else. Works under autocast; scale,
    bias and both heads stay float32. With an `encode` (prolap.training.gradcache; None encodes all at once), `encode.backward(L)`
    is its backward.
    """
    with phase("encode"):
        views = encode_views(model, batch, config, generator, encode)
    with phase("losses"):
        scale, bias = model.scale, model.bias
        losses, saturated = all_terms(views, config.loss, Logit(config.model.score, scale, bias))
        weighted = [getattr(config.loss, name).weight * loss for name, loss in losses.items()]
        logs = {f"loss/{name}": loss.detach() for name, loss in losses.items()}
        logs |= {f"saturated/{name}": share for name, share in saturated.items()}
        logs |= {"scale": scale.detach(), "bias": bias.detach().clone()}
        with torch.no_grad():
            logs |= _statistics("audio", views, views.audio, views.masked_audio)
            logs |= _statistics("text", views, views.text, views.masked_text)
            logs["bounds/audio"] = model.audio_head.saturated(views.audio.logvar)
            logs["bounds/text"] = model.text_head.saturated(views.text.logvar)
        return torch.stack(weighted).sum(), logs


def encode_views(
    model: ProLAP, batch: Batch, config: Config, generator: torch.Generator, encode: Encode | None = None
) -> Views:
    """Embed a batch, and masked copies of its first max(1, round(share · B)) rows if a term needs them, or its mixtures.

    Every call of a tower goes through `encode`. Masks are drawn for the whole batch, whatever `encode` does.
    """
    encode = Encode(model) if encode is None else encode
    audio, text = encode.audio(batch.audio, batch.frames), encode.text(batch.tokens)
    shared, needed = config.data.shared_captions, needs_masks(config.loss)
    if mixes(config.mix.share, config.loss):
        return _mixed(encode, audio, text, batch, config)
    mask = config.mask
    copies: dict[str, Any] = {}
    if needed and not mask.audio_copies and not mask.text_copies:
        raise ValueError("mask: audio_copies and text_copies are both 0, but a loss term needs masked copies.")
    rows = max(1, round(mask.share * len(batch)))
    sound, frames, tokens = batch.audio[:rows], batch.frames[:rows], batch.tokens[:rows]
    if "audio" in needed:
        masks = recursive_masks(model.audio_grid(sound, frames), mask.audio_copies, mask.ratio, generator)
        stacked = encode.audio(sound, frames, torch.cat(masks), mask.mode) if masks else None
        copies["masked_audio"], copies["audio_links"] = _unstack(stacked, masks)
    if "text" in needed:
        masks = recursive_masks(model.text_grid(tokens), mask.text_copies, mask.ratio, generator)
        stacked = encode.text(tokens, torch.cat(masks), mask.mode) if masks else None
        copies["masked_text"], copies["text_links"] = _unstack(stacked, masks)
    return Views(audio, text, batch, **copies, shared=shared)


def _unstack(stacked: Gaussian | None, masks: list[Tensor]) -> tuple[list[Gaussian], Tensor | None]:
    """The Gaussians level by level, and which levels mask something new."""
    if stacked is None:
        return [], None
    parts = zip(stacked.mean.chunk(len(masks)), stacked.logvar.chunk(len(masks)), strict=True)
    return [Gaussian(*level) for level in parts], new_links(masks)


def _mixed(encode: Encode, audio: Gaussian, text: Gaussian, batch: Batch, config: Config) -> Views:
    """The views of a batch with its mixtures in the place of masked copies; those of all levels are encoded in one call."""
    mixtures = batch.mixtures
    if mixtures is None:
        raise ValueError("batch: it has no mixtures, but mix.share asks for them; want one of the loader.")
    levels, rows = mixtures.alpha.shape
    sounds = encode.audio(mixtures.audio.flatten(0, 1), mixtures.frames.repeat(levels))
    return Views(
        audio,
        text,
        batch,
        masked_audio=[sounds.rows(slice(level * rows, (level + 1) * rows)) for level in range(levels)],
        masked_text=[encode.text(mixtures.tokens)],
        audio_links=more_even(mixtures.alpha),
        text_links=mixtures.joined[None],
        shared=config.data.shared_captions,
        partner=mixtures.partner,
    )


def more_even(alpha: Tensor) -> Tensor:
    """Whether a level mixes more evenly than the one before, bool [levels, b]; the sound itself has alpha 1.

    A link between equal mixtures would say that a sound contains itself and is dropped from the inclusion losses.
    """
    return alpha < torch.cat([torch.ones_like(alpha[:1]), alpha[:-1]])


def _statistics(modality: str, views: Views, gaussian: Gaussian, copies: list[Gaussian] | None) -> dict[str, Tensor]:
    uncertainty = gaussian.uncertainty
    logs = {
        f"uncertainty/{modality}": uncertainty.mean(),
        f"uncertainty/{modality}_trace": gaussian.var.sum(dim=-1).mean(),
        f"uncertainty/{modality}_spread": uncertainty.std(correction=0),
    }
    kind = "masked" if views.partner is None else "mixed"
    means = {f"uncertainty/{modality}_{kind}_{k}": copy.uncertainty.mean() for k, copy in enumerate(copies or [], 1)}
    return logs | means
