"""From a batch to the total loss and what is logged of it."""

from __future__ import annotations

import torch
from torch import Tensor

from prolap.config import Config, MaskConfig
from prolap.data.batch import Batch
from prolap.data.masking import new_links, recursive_masks
from prolap.data.mixing import mixes
from prolap.models.model import ProLAP
from prolap.training.gradcache import Encode
from prolap.training.losses import Views, all_terms, needs_masks
from prolap.training.memory import phase
from prolap.training.mixing_views import with_mixtures
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
        return _losses(model, views, config)


def _losses(model: ProLAP, views: Views, config: Config) -> tuple[Tensor, dict[str, Tensor]]:
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
    shared = config.data.shared_captions
    if mixes(config):
        return with_mixtures(encode, Views(audio, text, batch, shared=shared))
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
        stacked = encode.audio(sound, frames, torch.cat(masks), mask.mode)
        masked_audio = _unstack(stacked, n)
    audio_links = new_links(masks) if masks else None
    masks = _draw(model.text_grid(tokens), mask.text_copies, mask, generator)
    masked_text: list[Gaussian] = []
    if masks:
        n = len(masks)
        masked_text = _unstack(encode.text(tokens, torch.cat(masks), mask.mode), n)
    text_links = new_links(masks) if masks else None
    return Views(audio, text, batch, masked_audio, masked_text, audio_links, text_links, shared)


def _draw(grid: Tensor, copies: int, mask: MaskConfig, generator: torch.Generator) -> list[Tensor]:
    return recursive_masks(grid, copies, mask.ratio, generator) if copies else []


def _unstack(stacked: Gaussian, copies: int) -> list[Gaussian]:
    return [Gaussian(*level) for level in zip(stacked.mean.chunk(copies), stacked.logvar.chunk(copies), strict=True)]


def _statistics(modality: str, views: Views, view: Gaussian, copies: list[Gaussian]) -> dict[str, Tensor]:
    uncertainty = view.uncertainty
    logs = {
        f"uncertainty/{modality}": uncertainty.mean(),
        f"uncertainty/{modality}_trace": view.var.sum(dim=-1).mean(),
        f"uncertainty/{modality}_spread": uncertainty.std(correction=0),
    }
    kind = "masked" if views.partner is None else "mixed"
    return logs | {
        f"uncertainty/{modality}_{kind}_{level}": copy.uncertainty.mean() for level, copy in enumerate(copies, 1)
    }
