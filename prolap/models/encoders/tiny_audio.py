"""Patches along time, a perceptron on each, a look at the neighbours, and pooling: the smallest audio encoder."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from prolap.config import Config
from prolap.models.encoders.base import Encoder
from prolap.models.encoders.tokens import check_mask, compact, mean_max

PATCH = 8  # frames; 0.16 s at the default hop


class TinyAudio(Encoder):
    """Reads log-mel [B, frames, mels] and the number of frames that hold sound, [B].

    A token is a patch of `PATCH` frames by all mel bands; it counts if at least half of its frames hold sound (the
    first one always counts), frames of padding are set to zero before anything looks at them. A masked patch is
    replaced by a learned [MASK] token right after the patch embedding ("substitute") or left out, so that its
    neighbours meet ("delete"); mean and maximum are pooled over the unmasked patches alone. Nothing of a masked
    patch's sound reaches the output.
    """

    can_delete = True

    def __init__(self, config: Config) -> None:
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
        lengths = _lengths(inputs, lengths)
        patches = torch.arange(-(-inputs.shape[1] // PATCH), device=inputs.device)
        return patches < ((lengths + PATCH // 2) // PATCH).clamp(min=1)[:, None]

    def forward(
        self, inputs: Tensor, lengths: Tensor | None = None, masked: Tensor | None = None, mode: str = "substitute"
    ) -> Tensor:
        """Log-mel [B, frames, mels], lengths int [B] (None: all frames), masked bool [B, T] -> features [B, width]."""
        lengths = _lengths(inputs, lengths)
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


def _lengths(inputs: Tensor, lengths: Tensor | None) -> Tensor:
    return torch.full((len(inputs),), inputs.shape[1], device=inputs.device) if lengths is None else lengths
