"""RoBERTa, the text encoder of LAION-CLAP, as transformers' RobertaModel."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from prolap.models.encoders.base import TransformerSize, TransformerText, register_text
from prolap.models.tokenizers import RobertaTokenizer


@register_text
class Roberta(TransformerText):
    """Reads int64 tokens [B, L]: <s> (0), words, </s> (2), then padding (1). The features are the pooler's output.

    A masked token's embedding becomes a learned one and keeps its position ("substitute"), or the token is taken out as if
    the caption had been written without it ("delete"). <s>, </s> and padding are never masked.
    """

    name, title = "roberta", "RoBERTa"
    tokenizer = RobertaTokenizer
    size = TransformerSize(768, 12, 12, 514)
    reserved = RobertaTokenizer.pad + 1  # positions are counted from behind the padding's
    public = True

    def build(self, package: Any, words: int, dropout: float) -> Any:
        width, layers, heads, positions = self.size
        return package.RobertaModel(
            package.RobertaConfig(
                vocab_size=words,
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

    def grid(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Which tokens may be masked: words, never <s>, </s> or padding. Bool [B, L]."""
        return (inputs != RobertaTokenizer.pad) & (inputs != RobertaTokenizer.start) & (inputs != RobertaTokenizer.end)

    def forward(
        self, inputs: Tensor, lengths: Tensor | None = None, masked: Tensor | None = None, mode: str = "substitute"
    ) -> Tensor:
        inputs, present, hidden = self.hide(inputs, inputs != RobertaTokenizer.pad, masked, mode)
        embedded = self.substitute(self.base.embeddings.word_embeddings(inputs), hidden)
        pooled: Tensor = self.base(inputs_embeds=embedded, attention_mask=present.long()).pooler_output
        return pooled


@register_text
class RobertaMicro(Roberta):
    """Ours, for tests and small machines."""

    name = "roberta-micro"
    size = TransformerSize(128, 2, 4, 130)
    public = False
