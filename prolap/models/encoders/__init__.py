"""Encoders by name. A new one is a file that registers it, here (and imported below) or in a module of a user's own.

`AUDIO[name](config)` is an `AudioEncoder`, `TEXT[name](config, vocabulary)` a `TextEncoder`. What others need to know of an
encoder (its tokenizer, public weights, weight decay, synthetic inputs) is an attribute or a method of its class.
"""

from __future__ import annotations

from prolap.models.encoders import gpt2, htsat, roberta, tiny
from prolap.models.encoders.base import AUDIO, TEXT, AudioEncoder, TextEncoder, register_audio, register_text

__all__ = ["AUDIO", "TEXT", "AudioEncoder", "TextEncoder", "register_audio", "register_text"]
