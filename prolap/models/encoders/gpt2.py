"""GPT-2, the text encoder of MS-CLAP 2023, as transformers' GPT2Model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prolap.config import BaseConfig
from prolap.models.encoders.base import TransformerSize, TransformerText, register_text
from prolap.models.tokenizers import GPT2Tokenizer, Tokenizer


@register_text
class GPT2(TransformerText):
    """Reads int64 tokens [B, L] that end with <|endoftext|> (50256); what comes after it is padding.

    The padding is 0, which is also the id of "!", so the length of a caption is where its end token stands. The features
    are the last layer's at the end token (`text_pool` "end"), or, as MS-CLAP's public code takes them, at the number of ids
    that are not 0, less one ("count"): the same place unless the caption holds a "!" of its own. The model is causal, so
    padding reaches nothing that is read.

    A masked token's embedding becomes a learned one and keeps its position ("substitute"; our reading: ProLIP replaces
    tokens by a sentinel), or the token is taken out as if the caption had been written without it ("delete"). The end token,
    the lone space that the tokenizer puts before it, and padding are never masked.
    """

    name, title = "gpt2", "GPT-2"
    tokenizer = GPT2Tokenizer
    size = TransformerSize(768, 12, 12, 1024)
    public = True

    def __init__(self, config: BaseConfig, vocabulary: Tokenizer) -> None:
        super().__init__(config, vocabulary)
        self.reads_by_count = config.model.text_pool == "count"

    def build(self, package: Any, words: int, dropout: float) -> Any:
        width, layers, heads, positions = self.size
        sizes = {"vocab_size": words, "n_positions": positions, "n_embd": width, "n_layer": layers, "n_head": heads}
        config = package.GPT2Config(**sizes, resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout)
        return package.GPT2Model(config)

    def grid(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Which tokens may be masked: those before the end token, without the space that belongs to it. Bool [B, L]."""
        position, end = torch.arange(inputs.shape[1], device=inputs.device), _end(inputs)[:, None]
        return (position < end) & ~((position == end - 1) & (inputs == GPT2Tokenizer.space))

    def forward(
        self, inputs: Tensor, lengths: Tensor | None = None, masked: Tensor | None = None, mode: str = "substitute"
    ) -> Tensor:
        caption = torch.arange(inputs.shape[1], device=inputs.device) <= _end(inputs)[:, None]
        inputs, _, hidden = self.hide(inputs, caption, masked, mode)
        embedded = self.substitute(self.base.wte(inputs), hidden)
        states = self.base(inputs_embeds=embedded, use_cache=False).last_hidden_state
        # a masked token counts as a word, so that the place does not tell whether it was a "!"
        last = ((inputs != GPT2Tokenizer.pad) | hidden).sum(dim=1) - 1 if self.reads_by_count else _end(inputs)
        return states[torch.arange(len(states), device=states.device), last]


@register_text
class GPT2Micro(GPT2):
    """Ours, for tests and small machines."""

    name = "gpt2-micro"
    size = TransformerSize(128, 2, 4, 128)
    public = False


def _end(tokens: Tensor) -> Tensor:
    """Where each row's first end token stands, [B]; without one the whole row is the caption."""
    ends = tokens == GPT2Tokenizer.end
    return torch.where(ends.any(dim=1), ends.int().argmax(dim=1), tokens.shape[1] - 1)
