"""The smallest encoders: patches of sound and pairs of words, each with a perceptron, and pooled."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from prolap.config import BaseConfig
from prolap.models.encoders.base import (
    AudioEncoder,
    TextEncoder,
    check_mask,
    compact,
    full_lengths,
    mean_max,
    register_audio,
    register_text,
)
from prolap.models.tokenizers import Tokenizer, WordVocabulary

PATCH = 8  # frames; 0.16 s at the default hop


@register_audio
class TinyAudio(AudioEncoder):
    """Patches along time, a perceptron on each, a look at the neighbours, and pooling.

    A token is a patch of `PATCH` frames by all mel bands; it counts if at least half of its frames hold sound (the
    first one always counts), frames of padding are set to zero before anything looks at them. A masked patch is
    replaced by a learned [MASK] token right after the patch embedding ("substitute") or left out, so that its
    neighbours meet ("delete"); mean and maximum are pooled over the unmasked patches alone. Nothing of a masked
    patch's sound reaches the output.
    """

    name = "tiny"
    can_delete = True
    shape_options = ("model.width",)

    def __init__(self, config: BaseConfig) -> None:
        super().__init__()
        self.width = width = config.model.width
        self.embed = nn.Linear(PATCH * config.data.mels, width)
        # far above the usual start: else all sounds start nearly parallel and the first hundred steps go into that
        nn.init.normal_(self.embed.weight, std=4 / math.sqrt(self.embed.in_features))
        self.mask = nn.Parameter(torch.randn(width) * 0.02)
        self.mix = nn.Conv1d(width, width, 3, padding=1, groups=width)
        self.patch = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())
        self.norm = nn.LayerNorm(2 * width)
        self.out = nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(config.model.dropout)

    def grid(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Which patches hold sound and so may be masked. Bool [B, T], T = ceil(frames / PATCH)."""
        lengths = full_lengths(inputs, lengths)
        patches = torch.arange(math.ceil(inputs.shape[1] / PATCH), device=inputs.device)
        return patches < ((lengths + PATCH // 2) // PATCH).clamp(min=1)[:, None]

    def forward(
        self, inputs: Tensor, lengths: Tensor | None = None, masked: Tensor | None = None, mode: str = "substitute"
    ) -> Tensor:
        """Log-mel [B, frames, mels], lengths int [B] (None: all frames), masked bool [B, T] -> features [B, width]."""
        lengths = full_lengths(inputs, lengths)
        valid = self.grid(inputs, lengths)
        check_mask(masked, valid, mode, self.can_delete)
        tokens = self.embed(self._patches(inputs, lengths))
        present = visible = valid
        if masked is not None:
            visible = valid & ~masked
            if mode == "delete":
                tokens, visible = compact(tokens, visible)
                present = visible
            else:
                tokens = torch.where(visible[..., None], tokens, self.mask.to(tokens.dtype))
        tokens = torch.where(present[..., None], functional.gelu(tokens), 0.0)
        mixed = tokens + self.mix(tokens.transpose(1, 2)).transpose(1, 2)
        return self.out(self.dropout(self.norm(mean_max(self.patch(mixed), visible))))

    def _patches(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        frames = inputs.shape[1]
        inside = torch.arange(frames, device=inputs.device) < lengths[:, None]
        sound = torch.where(inside[..., None], inputs, 0.0)
        return functional.pad(sound, (0, 0, 0, -frames % PATCH)).reshape(len(inputs), -1, PATCH * inputs.shape[2])


@register_text
class TinyText(TextEncoder):
    """A bag of word pairs, so that it still knows which word came before which.

    h_i = gelu(L e_i + R e_(i+1) + b), mean and maximum over the visible words i, then a small perceptron.

    e_i is the word's embedding and e_(i+1) that of its right neighbour (zero after the end token). Both maps are
    applied to the table of words and not to the words of the batch, which is the same and cheaper. A masked word
    becomes a learned [MASK] embedding that its left neighbour still sees ("substitute") or is taken out, so that its
    neighbours meet ("delete"); either way it is not pooled. Reads int64 tokens [B, L], 0 is padding.
    """

    name = "tiny"
    can_delete = True
    shape_options = ("model.width",)
    tokenizer = WordVocabulary

    def __init__(self, config: BaseConfig, vocabulary: Tokenizer) -> None:
        super().__init__()
        self.width = config.model.width
        embedding = self.width // 2
        self.words = nn.Embedding(len(vocabulary) + 1, embedding)  # the last row is [MASK]
        nn.init.normal_(self.words.weight, std=0.5)
        self.left = nn.Linear(embedding, self.width)
        self.right = nn.Linear(embedding, self.width, bias=False)
        self.norm = nn.LayerNorm(2 * self.width)
        self.out = nn.Linear(2 * self.width, self.width)
        self.dropout = nn.Dropout(config.model.dropout)

    def grid(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Which tokens may be masked: words, never padding and never the end token. Bool [B, L]."""
        return (inputs != WordVocabulary.pad) & (inputs != WordVocabulary.end)

    def forward(
        self, inputs: Tensor, lengths: Tensor | None = None, masked: Tensor | None = None, mode: str = "substitute"
    ) -> Tensor:
        tokens, present, hidden = self.hide(inputs, inputs != WordVocabulary.pad, masked, mode)
        tokens = torch.where(hidden, self.words.num_embeddings - 1, tokens)
        pairs = functional.gelu(self._pairs(tokens, present))
        return self.out(self.dropout(self.norm(mean_max(pairs, present & ~hidden))))

    def _pairs(self, tokens: Tensor, present: Tensor) -> Tensor:
        left = functional.embedding(tokens, self.left(self.words.weight))
        right = functional.embedding(tokens, self.right(self.words.weight))
        right = torch.where(present[..., None], right, 0.0)
        return left + functional.pad(right[:, 1:], (0, 0, 0, 1))
