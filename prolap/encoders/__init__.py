"""Encoders by name. A new one is one file here and one line in a registry.

`AUDIO[name](config)` and `TEXT[name](config, vocabulary)` make an `Encoder`. Audio encoders read log-mel [B, frames,
mels] with the valid frames [B], text encoders tokens [B, L] with 0 as padding.
"""

from __future__ import annotations

from collections.abc import Callable

from prolap.encoders.base import Encoder
from prolap.encoders.tiny_audio import TinyAudio
from prolap.encoders.tiny_text import TinyText

AUDIO: dict[str, Callable[..., Encoder]] = {"tiny": TinyAudio}
TEXT: dict[str, Callable[..., Encoder]] = {"tiny": TinyText}
