"""RoBERTa, the text encoder of LAION-CLAP, as transformers' RobertaModel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prolap.config import BaseConfig
from prolap.models.encoders.base import (
    TextEncoder,
    TransformerSize,
    recompute,
    register_text,
    transformers,
)
from prolap.models.tokenizers import RobertaTokenizer, Tokenizer


@register_text
class Roberta(TextEncoder):
    """Reads int64 tokens [B, L]: <s> (0), words, </s> (2), then padding (1). The features are the pooler's output.

    A masked token's embedding becomes a learned one and keeps its position ("substitute"), or the token is taken out as if
    the caption had been written without it ("delete"). <s>, </s> and padding are never masked.
    """

    name = "roberta"
    can_delete = True
    tokenizer = RobertaTokenizer
    size = TransformerSize(768, 12, 12, 514)
    public = True

    def __init__(self, config: BaseConfig, vocabulary: Tokenizer) -> None:
        super().__init__()
        package, (width, layers, heads, positions) = transformers(), self.size
        most = positions - RobertaTokenizer.pad - 1
        if config.model.max_tokens > most:
            raise ValueError(f"model.max_tokens: got {config.model.max_tokens}, want at most {most} for RoBERTa.")
        self.width, dropout = width, config.model.dropout
        self.base = package.RobertaModel(
            package.RobertaConfig(
                vocab_size=len(vocabulary),
                max_position_embeddings=positions,
                type_vocab_size=1,
                layer_norm_eps=1e-5,
                hidden_size=width,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                intermediate_size=4 * width,
                hidden_dropout_prob=dropout,
                attention_probs_dropout_prob=dropout,
            )
        )
        self.mask = nn.Parameter(torch.randn(width) * 0.02)
        if config.model.checkpointing:
            recompute(self.base)

    def grid(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Which tokens may be masked: words, never <s>, </s> or padding. Bool [B, L]."""
        return (inputs != RobertaTokenizer.pad) & (inputs != RobertaTokenizer.start) & (inputs != RobertaTokenizer.end)

    def forward(
        self, inputs: Tensor, lengths: Tensor | None = None, masked: Tensor | None = None, mode: str = "substitute"
    ) -> Tensor:
        """Tokens [B, L], masked bool [B, L] or None -> features [B, width]; `lengths` is not needed."""
        inputs, present, hidden = self.hide(inputs, inputs != RobertaTokenizer.pad, masked, mode)
        table = self.base.embeddings.word_embeddings(inputs)
        embedded = torch.where(hidden[..., None], self.mask.to(table.dtype), table)
        pooled: Tensor = self.base(inputs_embeds=embedded, attention_mask=present.long()).pooler_output
        return pooled


@register_text
class RobertaMicro(Roberta):
    """Ours, for tests and small machines."""

    name = "roberta-micro"
    size = TransformerSize(128, 2, 4, 130)
    public = False
