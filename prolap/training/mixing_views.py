"""The mixtures of a batch as the model sees them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from prolap.training.gradcache import Encode
from prolap.training.views import Views


def with_mixtures(encode: Encode, views: Views) -> Views:
    """The views of a batch, with its mixtures in the place of masked copies.

    Mixed sounds of all levels go through the encoder in one call, [levels * b, frames, mels].
    Errors: ValueError for a batch without mixtures.
    """
    mixtures = views.batch.mixtures
    if mixtures is None:
        raise ValueError("batch: it has no mixtures, but mix.share asks for them; want one of the loader.")
    levels, rows = mixtures.alpha.shape
    sounds = encode.audio(mixtures.audio.flatten(0, 1), mixtures.frames.repeat(levels))
    joined = encode.text(mixtures.tokens)
    return replace(
        views,
        masked_audio=[sounds.rows(slice(k * rows, (k + 1) * rows)) for k in range(levels)],
        masked_text=[joined],
        audio_links=more_even(mixtures.alpha),
        text_links=mixtures.joined[None],
        partner=mixtures.partner,
    )


def more_even(alpha: Tensor) -> Tensor:
    """Whether a level mixes more evenly than the one before, bool [levels, b]; the sound itself has alpha 1.

    A link between equal mixtures would say that a sound contains itself and is dropped from the inclusion losses.
    """
    return alpha < torch.cat([torch.ones_like(alpha[:1]), alpha[:-1]])
