"""Encoders by name. A new one is one file here and one line in a registry.

`AUDIO[name](config)` and `TEXT[name](config, vocabulary)` make an `Encoder`. Audio encoders read log-mel [B, frames,
mels] with the valid frames [B], text encoders the tokens [B, L] of their kind of tokenizer (`tokenizer_of`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from prolap.models.encoders.base import Encoder
from prolap.models.encoders.gpt2 import GPT2
from prolap.models.encoders.htsat import HTSAT
from prolap.models.encoders.roberta import Roberta
from prolap.models.encoders.tiny_audio import TinyAudio
from prolap.models.encoders.tiny_text import TinyText

AUDIO: dict[str, Callable[..., Encoder]] = {
    "tiny": TinyAudio,
    "htsat-tiny": partial(HTSAT, size="tiny"),
    "htsat-base": partial(HTSAT, size="base"),
    "htsat-micro": partial(HTSAT, size="micro"),
}
TEXT: dict[str, Callable[..., Encoder]] = {
    "tiny": TinyText,
    "gpt2": GPT2,
    "gpt2-micro": partial(GPT2, size="micro"),
    "roberta": Roberta,
    "roberta-micro": partial(Roberta, size="micro"),
}


def tokenizer_of(text: str) -> str:
    """The name in prolap.models.tokenizers.TOKENIZERS of what this text encoder reads."""
    if text not in TEXT:
        raise ValueError(f"model.text: got {text!r}, want one of {', '.join(sorted(TEXT))}.")
    entry = TEXT[text]
    kind: str = getattr(entry.func if isinstance(entry, partial) else entry, "tokenizer")  # noqa: B009
    return kind
