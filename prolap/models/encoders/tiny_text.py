"""A bag of word pairs: the smallest text encoder that still knows which word came before which."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from prolap.config import Config
from prolap.models.encoders.base import Encoder
from prolap.models.encoders.tokens import check_mask, compact, mean_max
from prolap.models.vocabulary import END, PAD, WordVocabulary


class TinyText(Encoder):
    """h_i = gelu(L e_i + R e_(i+1) + b), mean and maximum over the visible words i, then a small perceptron.

    e_i is the word's embedding and e_(i+1) that of its right neighbour (zero after the end token). Both maps are
    applied to the table of words and not to the words of the batch, which is the same and cheaper. A masked word
    becomes a learned [MASK] embedding that its left neighbour still sees ("substitute") or is taken out, so that its
    neighbours meet ("delete"); either way it is not pooled. Reads int64 tokens [B, L], 0 is padding.
    """

    can_delete = True
    tokenizer = "words"

    def __init__(self, config: Config, vocabulary: WordVocabulary) -> None:
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
        return (inputs != PAD) & (inputs != END)

    def forward(
        self, inputs: Tensor, lengths: Tensor | None = None, masked: Tensor | None = None, mode: str = "substitute"
    ) -> Tensor:
        """Tokens [B, L], masked bool [B, L] or None -> features [B, width]; `lengths` is not needed."""
        grid = self.grid(inputs, lengths)
        check_mask(masked, grid, mode, self.can_delete)
        present, visible, tokens = inputs != PAD, inputs != PAD, inputs
        if masked is not None:
            visible = present & ~(masked & grid)
            if mode == "delete":
                rows, visible = compact(tokens[..., None], visible)
                tokens, present = rows[..., 0], visible
            else:
                tokens = torch.where(present & ~visible, self.words.num_embeddings - 1, tokens)
        pairs = functional.gelu(self._pairs(tokens, present))
        return self.out(self.dropout(self.norm(mean_max(pairs, visible))))

    def _pairs(self, tokens: Tensor, present: Tensor) -> Tensor:
        left = functional.embedding(tokens, self.left(self.words.weight))
        right = functional.embedding(tokens, self.right(self.words.weight))
        right = torch.where(present[..., None], right, 0.0)
        return left + functional.pad(right[:, 1:], (0, 0, 0, 1))
