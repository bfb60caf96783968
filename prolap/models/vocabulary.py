"""A word vocabulary built from training captions: text in, padded integer tokens out."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

PAD, UNKNOWN, END = 0, 1, 2
_SPECIAL = ("<pad>", "<unknown>", "<end>")
_WORD = re.compile(r"\w+(?:'\w+)*")


def words(text: str) -> list[str]:
    """Lower-case words of a caption; punctuation separates words and is dropped, an inner apostrophe stays."""
    return _WORD.findall(text.lower())


class WordVocabulary:
    """Words to integers: 0 pads, 1 stands for every unknown word, 2 ends a caption.

    `max_words` bounds a caption's length; what comes after it is cut, the end token is kept.
    """

    def __init__(self, known: Sequence[str], max_words: int = 64) -> None:
        if len(set(known)) != len(known):
            raise ValueError("known: a word occurs twice in the vocabulary; want every word once.")
        if max_words < 1:
            raise ValueError(f"max_words: got {max_words}, want at least 1.")
        self.max_words = max_words
        self._words = (*_SPECIAL, *known)
        self._ids = {word: number for number, word in enumerate(self._words)}

    @classmethod
    def build(cls, texts: Iterable[str], min_count: int = 1, max_words: int = 64) -> WordVocabulary:
        """Every word that occurs `min_count` times or more, most frequent first, equally frequent ones by letters."""
        counts = Counter(word for text in texts for word in words(text))
        kept = [word for word, count in counts.items() if count >= min_count]
        return cls(sorted(kept, key=lambda word: (-counts[word], word)), max_words)

    def __len__(self) -> int:
        """Number of tokens, the three special ones included."""
        return len(self._words)

    def __contains__(self, word: str) -> bool:
        return word in self._ids

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Texts as int64 tokens [B, L], L the longest of them with its end token; "" is the end token alone."""
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise TypeError(f"texts: got {type(texts).__name__}, want a list of str.")
        if not texts:
            raise ValueError("texts: got an empty list, want at least one text.")
        rows = [[*(self._ids.get(word, UNKNOWN) for word in words(text)[: self.max_words]), END] for text in texts]
        longest = max(map(len, rows))
        return torch.tensor([row + [PAD] * (longest - len(row)) for row in rows], dtype=torch.int64)

    __call__ = encode

    def decode(self, tokens: Tensor) -> list[str]:
        """Tokens [B, L] back as text, up to the end token of each row; unknown words read `<unknown>`."""
        rows = [row[: row.index(END)] if END in row else row for row in tokens.tolist()]
        return [" ".join(self._words[token] for token in row if token != PAD) for row in rows]

    def to_json(self) -> str:
        """The whole vocabulary as one JSON string."""
        known = self._words[len(_SPECIAL) :]
        return json.dumps({"kind": "words", "max_words": self.max_words, "words": known}, ensure_ascii=False, indent=1)

    @classmethod
    def from_json(cls, text: str) -> WordVocabulary:
        """The inverse of `to_json`."""
        content = json.loads(text)
        if not isinstance(content, dict) or content.get("kind") != "words":
            raise ValueError("text: this JSON is no word vocabulary; want what to_json() wrote.")
        return cls(content["words"], content["max_words"])
