"""HTS-AT, the audio encoder of the published CLAP models, as transformers' ClapAudioModel."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from prolap.config import BaseConfig
from prolap.data.features import make_features
from prolap.models.encoders.base import AudioEncoder, check_mask, full_lengths, recompute, register_audio, transformers

MELS = 64  # mel bands that the model reads
FRAMES = 1024  # frames that the model stretches a window to
TIMES, HALVES = 32, 2  # final tokens of a window: 32 of 32 frames each, by two halves of the mel bands
TOKENS = TIMES * HALVES
CHUNK = 32  # windows at a time where nothing is kept for a backward pass


class Size(NamedTuple):
    """Width after patch embedding, blocks and heads by stage, side of a patch."""

    width: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    patch: int = 4


@register_audio
class HTSAT(AudioEncoder):
    """The tiny one, of MS-CLAP 2023 and LAION-CLAP. Reads log-mel [B, frames, 64] and the frames that hold sound, [B].

    The model hears windows of `window` frames (what the recipe of the log-mel says: 7 s for MS-CLAP, 10 s for
    LAION-CLAP), which it stretches to 1024. A sound of n frames is cut into ceil(n / window) windows side by side, the
    last one moved back to end with the sound; a shorter one is repeated until the window is full, as the public models
    do (they repeat the waveform, here it is its frames). The features are the mean over all final tokens of all
    windows: nothing is drawn, so that a sound always has the same.

    A final token stands for 32 stretched frames by 32 mel bands, and masks are drawn on this grid: [B, windows · 64], of
    a window first the 32 tokens of the lower mel bands in time, then those of the upper ones. What is masked becomes a
    learned [MASK] token after patch embedding, and the mean is taken over the unmasked tokens alone (else the
    representation collapses). A masked row hears every instant once: no window is moved back, no sound repeated, and a
    token less than half of whose frames hold sound is [MASK] and not pooled (the first always counts): a repetition
    would tell what is masked. A row that masks nothing is the plain one.

    Nothing of a masked token reaches the output but for two frames at its edges where a window is shorter than 1024
    frames (stretching is bicubic). In training the batch norm over mel bands takes its statistics from the sounds as
    they are; for masked ones it uses the running ones. `mode` "delete" is refused: the attention windows need all
    tokens.
    """

    name = "htsat-tiny"
    size = Size(96, (2, 2, 6, 2), (4, 8, 16, 32))
    public = True
    no_decay = ("mask", "relative_position_bias_table")

    def __init__(self, config: BaseConfig) -> None:
        super().__init__()
        package, shape = transformers(), self.size
        if config.data.mels != MELS:
            raise ValueError(f"data.mels: got {config.data.mels}, want {MELS} for HTS-AT.")
        recipe = make_features(config.data)
        self.window = recipe.window_frames
        self.width = shape.width * 2 ** (len(shape.depths) - 1)
        self.base = package.ClapAudioModel(
            package.ClapAudioConfig(
                spec_size=256,
                num_mel_bins=MELS,
                patch_size=shape.patch,
                patch_stride=(shape.patch, shape.patch),
                patch_embeds_hidden_size=shape.width,
                depths=shape.depths,
                num_hidden_layers=len(shape.depths),
                num_attention_heads=shape.heads,
                hidden_size=self.width,
                hidden_dropout_prob=config.model.dropout,
                drop_path_rate=config.model.dropout,
                enable_fusion=False,
            )
        )
        norm = self.base.audio_encoder.batch_norm
        # else random weights hear decibels before they are normalised
        nn.init.constant_(norm.running_mean, recipe.mean)
        nn.init.constant_(norm.running_var, recipe.std**2)
        self.mask = nn.Parameter(torch.randn(shape.width) * 0.02)
        if config.model.checkpointing:
            recompute(self.base)

    def grid(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Which tokens hold sound and so may be masked. Bool [B, T], T = ceil(frames / window) · 64."""
        lengths = full_lengths(inputs, lengths).clamp(min=1)
        windows = math.ceil(inputs.shape[1] / self.window)
        time = torch.arange(windows * TIMES, device=inputs.device)
        half = FRAMES // TIMES // 2
        middle = ((time // TIMES) * FRAMES + (2 * (time % TIMES) + 1) * half) * self.window
        holds = middle <= lengths[:, None] * FRAMES
        holds[:, 0] = True
        return holds.view(-1, windows, 1, TIMES).expand(-1, -1, HALVES, -1).reshape(len(inputs), -1)

    def forward(
        self, inputs: Tensor, lengths: Tensor | None = None, masked: Tensor | None = None, mode: str = "substitute"
    ) -> Tensor:
        """Log-mel [B, frames, 64], lengths int [B] (None: all), masked bool [B, T] -> features [B, width] float32."""
        lengths = full_lengths(inputs, lengths).clamp(min=1)
        grid = self.grid(inputs, lengths)
        check_mask(masked, grid, mode, self.can_delete)
        count = (lengths + self.window - 1) // self.window  # windows of each row
        windows = torch.arange(grid.shape[1] // TOKENS, device=inputs.device)
        visible = (windows < count[:, None])[..., None].expand(-1, -1, TOKENS)
        hides = torch.zeros_like(lengths, dtype=torch.bool)
        if masked is not None:
            hides = (masked & grid).any(dim=1)
            seen = (grid & ~masked).view_as(visible)
            visible = torch.where(hides[:, None, None], seen, visible)
        row, window = visible.any(dim=2).nonzero(as_tuple=True)  # a window of which nothing is pooled is not computed
        sound = self._cut(inputs, lengths, hides, row, window)
        pooled = self._windows(sound, visible[row, window], frozen=masked is not None)
        sums = pooled.new_zeros((*visible.shape[:2], self.width))
        sums = sums.index_put((row, window), pooled)  # each place once: the order of a sum is fixed
        return sums.sum(dim=1) / visible.sum(dim=(1, 2))[:, None].clamp(min=1)

    def _cut(self, inputs: Tensor, lengths: Tensor, hides: Tensor, row: Tensor, window: Tensor) -> Tensor:
        """The windows numbered `window` of the rows `row`, [N, self.window, 64] float32."""
        length, inside = lengths[row][:, None], torch.arange(self.window, device=inputs.device)
        start = window[:, None] * self.window
        last = (length - self.window).clamp(min=0)
        plain = (torch.minimum(start, last) + inside) % length
        once = torch.minimum(start + inside, length - 1)
        return inputs[row[:, None], torch.where(hides[row][:, None], once, plain)].float()

    def _windows(self, sound: Tensor, visible: Tensor, frozen: bool) -> Tensor:
        """Windows [N, window, 64] and their visible tokens [N, 64] -> sums over the visible tokens [N, width]."""
        if not self.training and not torch.is_grad_enabled() and len(sound) > CHUNK:
            parts = zip(sound.split(CHUNK), visible.split(CHUNK), strict=True)
            return torch.cat([self._windows(part, seen, frozen) for part, seen in parts])
        with self._substituted(~visible), _running_statistics(self.base.audio_encoder.batch_norm, frozen):
            final = self.base(input_features=sound[:, None]).last_hidden_state
        tokens = final.flatten(2).float()
        return torch.where(visible[:, None], tokens, 0.0).sum(dim=2)

    @contextmanager
    def _substituted(self, hidden: Tensor) -> Iterator[None]:
        """Put [MASK] in place of the patches of hidden tokens [N, 64] inside this block."""
        side = int(self.base.audio_encoder.patch_embed.grid_size[0])
        # the model lays a window's 1024 frames out as an image: four stretches of 256 frames below each other
        image = hidden.view(-1, HALVES, 4, TIMES // 4).transpose(1, 2).reshape(-1, 8, TIMES // 4)
        patches = image.repeat_interleave(side // 8, dim=1).repeat_interleave(side // 8, dim=2).flatten(1)

        def replace(module: nn.Module, inputs: Any, embedded: Tensor) -> Tensor:
            return torch.where(patches[..., None], self.mask.to(embedded.dtype), embedded)

        handle = self.base.audio_encoder.patch_embed.register_forward_hook(replace)
        try:
            yield
        finally:
            handle.remove()


@register_audio
class HTSATBase(HTSAT):
    """The larger one of LAION-CLAP."""

    name = "htsat-base"
    size = Size(128, (2, 2, 12, 2), (4, 8, 16, 32))


@register_audio
class HTSATMicro(HTSAT):
    """Ours: the same final grid at a hundredth of the work."""

    name = "htsat-micro"
    size = Size(32, (1, 1, 2), (2, 4, 8), patch=8)
    public = False


@contextmanager
def _running_statistics(norm: nn.Module, frozen: bool) -> Iterator[None]:
    """The batch norm as in evaluation inside this block, if `frozen`."""
    training = norm.training
    norm.train(training and not frozen)
    try:
        yield
    finally:
        norm.train(training)
