"""What every encoder offers, and what their implementations share: hiding tokens, pooling, transformers' modules."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from prolap.config import BaseConfig
from prolap.data.features import make_features
from prolap.models.tokenizers import Tokenizer
from prolap.utils.environment import optional
from prolap.utils.registry import Registry


class Encoder(nn.Module):
    """Inputs of B samples to features [B, width]; a tower of the model without its head."""

    name: ClassVar[str]
    """What `model.audio` or `model.text` calls it."""
    width: int
    """Size of the features."""
    can_delete: ClassVar[bool] = False
    """Whether masked tokens can be left out instead of replaced."""
    public: ClassVar[bool] = False
    """Whether there are public weights of it."""
    size: ClassVar[Any] = None
    """What tells the variants of its architecture apart, for importers of weights."""
    no_decay: ClassVar[tuple[str, ...]] = ("mask",)
    """Last part of the names of matrices without weight decay; norms, embeddings and vectors never have any."""
    shape_options: ClassVar[tuple[str, ...]] = ()
    """Configuration options, beside the encoder's name, that the shapes of its weights depend on."""

    def grid(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Which tokens may be masked. Bool [B, T]."""
        raise NotImplementedError

    def forward(
        self, inputs: Tensor, lengths: Tensor | None = None, masked: Tensor | None = None, mode: str = "substitute"
    ) -> Tensor:
        """Features [B, width], untouched by what `masked` (bool [B, T], True hides) hides."""
        raise NotImplementedError

    @classmethod
    def synthetic(cls, config: BaseConfig, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Random inputs [*shape, ...] of the longest length that training can meet, for memory reports and timings."""
        raise NotImplementedError


class AudioEncoder(Encoder):
    """Made by `AudioEncoder(config)`; reads log-mel [B, frames, mels] and the number of frames that hold sound, [B]."""

    @classmethod
    def synthetic(cls, config: BaseConfig, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Noise of `data.seconds` with the recipe's mean and standard deviation, [*shape, frames, mels]."""
        recipe = make_features(config.data)
        frames = recipe.frames(round(config.data.seconds * config.data.sample_rate))
        return recipe.mean + recipe.std * torch.randn((*shape, frames, config.data.mels), generator=generator)


class TextEncoder(Encoder):
    """Made by `TextEncoder(config, vocabulary)`; reads int64 tokens [B, L] of its kind of tokenizer, and needs no lengths."""

    tokenizer: ClassVar[type[Tokenizer]]
    """What makes its tokens."""

    @classmethod
    def synthetic(cls, config: BaseConfig, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Random captions of `model.max_tokens` tokens, [*shape, max_tokens]."""
        return cls.tokenizer.synthetic((*shape, config.model.max_tokens), generator)

    def hide(self, inputs: Tensor, present: Tensor, masked: Tensor | None, mode: str) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens [B, L], which of them are there, and which of those are hidden; "delete" takes hidden ones out instead.

        Errors: ValueError for a mask that does not fit the grid, or a mode that the encoder does not have.
        """
        grid = self.grid(inputs)
        check_mask(masked, grid, mode, self.can_delete)
        hidden = torch.zeros_like(grid) if masked is None else masked & grid
        if masked is None or mode != "delete":
            return inputs, present, hidden
        tokens, present = compact(inputs[..., None], present & ~hidden)
        return torch.where(present, tokens[..., 0], self.tokenizer.pad), present, torch.zeros_like(present)


AUDIO: Registry[type[AudioEncoder]] = Registry("model.audio")
TEXT: Registry[type[TextEncoder]] = Registry("model.text")
register_audio, register_text = AUDIO.register, TEXT.register


class TransformerSize(NamedTuple):
    """Of a text encoder made of transformers' layers."""

    width: int
    layers: int
    heads: int
    positions: int


class TransformerText(TextEncoder):
    """A text encoder made of transformers' layers, in `base`. A masked token's embedding becomes a learned one, `mask`."""

    can_delete = True
    size: ClassVar[TransformerSize]
    title: ClassVar[str]
    """What messages call it."""
    reserved: ClassVar[int] = 0
    """Positions that no token of a caption takes."""

    def __init__(self, config: BaseConfig, vocabulary: Tokenizer) -> None:
        super().__init__()
        package, most = transformers(), self.size.positions - self.reserved
        if config.model.max_tokens > most:
            raise ValueError(f"model.max_tokens: got {config.model.max_tokens}, want at most {most} for {self.title}.")
        self.width = self.size.width
        self.base: Any = self.build(package, len(vocabulary), config.model.dropout)
        self.mask = nn.Parameter(torch.randn(self.width) * 0.02)
        if config.model.checkpointing:
            recompute(self.base)

    def build(self, package: Any, words: int, dropout: float) -> Any:
        """The new layers, of the package `transformers`, for so many different tokens."""
        raise NotImplementedError

    def substitute(self, embedded: Tensor, hidden: Tensor) -> Tensor:
        """Embeddings [B, L, width] of tokens, the learned one in the place of those that are hidden, bool [B, L]."""
        return torch.where(hidden[..., None], self.mask.to(embedded.dtype), embedded)


def check_mask(masked: Tensor | None, grid: Tensor, mode: str, can_delete: bool) -> None:
    """Refuse a mask of another shape or type than the grid, and a mode that the encoder does not have."""
    if mode not in ("substitute", "delete"):
        raise ValueError(f'mode: got {mode!r}, want "substitute" or "delete".')
    if mode == "delete" and not can_delete:
        raise ValueError('mode: this encoder cannot leave tokens out; want "substitute".')
    if masked is not None and (masked.shape != grid.shape or masked.dtype != torch.bool):
        raise ValueError(
            f"masked: got {masked.dtype} of shape {tuple(masked.shape)}, want torch.bool of shape {tuple(grid.shape)}."
        )


def full_lengths(inputs: Tensor, lengths: Tensor | None) -> Tensor:
    """The lengths [B], or all of the inputs [B, T, ...] if there are none."""
    return torch.full((len(inputs),), inputs.shape[1], device=inputs.device) if lengths is None else lengths


def compact(tokens: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """Move each row's visible tokens to its front, in order, and cut the tail that no row needs.

    tokens [B, T, W], visible bool [B, T] -> tokens [B, T', W], visible [B, T']; T' is the largest number of visible
    tokens (at least 1).
    """
    order = torch.argsort((~visible).to(torch.uint8), dim=1, stable=True)
    order = order[:, : max(1, int(visible.sum(dim=1).max()))]
    return tokens.gather(1, order[..., None].expand(-1, -1, tokens.shape[2])), visible.gather(1, order)


def mean_max(tokens: Tensor, visible: Tensor) -> Tensor:
    """Mean and maximum over the visible tokens, side by side: [B, T, W], bool [B, T] -> [B, 2W] float32.

    A row without a visible token gives zeros.
    """
    tokens, keep = tokens.float(), visible[..., None]
    mean = torch.where(keep, tokens, 0.0).sum(dim=1) / keep.sum(dim=1).clamp(min=1)
    most = torch.where(keep, tokens, torch.finfo(torch.float32).min).amax(dim=1)
    return torch.cat([mean, torch.where(keep.any(dim=1), most, 0.0)], dim=1)


def transformers() -> Any:
    """The package `transformers`, imported when an encoder asks for it because that takes seconds."""
    return optional("transformers", "this encoder needs transformers")


def recompute(base: nn.Module) -> None:
    """Recompute the activations of each layer (HTS-AT: of each stage) in backward instead of keeping them.

    Sets the switches that transformers' own layers read; `gradient_checkpointing_enable` refuses ClapAudioModel, whose
    stages are such layers all the same. Not re-entrant, random numbers replayed: the same gradients. In training mode alone.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    for layer in base.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer.gradient_checkpointing = True
            vars(layer)["_gradient_checkpointing_func"] = functools.partial(checkpoint, use_reentrant=False)
