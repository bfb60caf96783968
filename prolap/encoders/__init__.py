"""Encoders by name. A new one is one file here and one line in a registry.

An encoder is a module with
- `AUDIO[name](config)` or `TEXT[name](config, vocabulary)` as its constructor,
- `width`, the size of its features, and `can_delete`, whether masked tokens can be left out,
- `grid(inputs, lengths) -> bool [B, T]`, the tokens that may be masked,
- `forward(inputs, lengths, masked=None, mode="substitute") -> [B, width]`, untouched by what is masked.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from prolap.encoders.tiny_audio import TinyAudio
from prolap.encoders.tiny_text import TinyText

AUDIO: dict[str, Callable[..., nn.Module]] = {"tiny": TinyAudio}
TEXT: dict[str, Callable[..., nn.Module]] = {"tiny": TinyText}
