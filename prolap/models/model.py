"""The two towers, the two heads, and the scale and bias between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prolap.config import BaseConfig
from prolap.data.audio import read, resample
from prolap.data.features import make_features
from prolap.data.mixing import WORDS
from prolap.models.encoders import AUDIO, TEXT
from prolap.models.encoders.base import AudioEncoder, Encoder, TextEncoder
from prolap.models.heads import Head, bound, scale_bounds, unbound
from prolap.models.tokenizers import Tokenizer
from prolap.utils.seeding import torch_generator
from prolap_kernels import SCORES, Gaussian


class ProLAP(nn.Module):
    """Sounds and captions as diagonal Gaussians in one space: p(z | audio) and p(z | text).

    `config` and `vocabulary` travel with the model. A pair's logit is scale · score + bias.
    """

    def __init__(self, config: BaseConfig, vocabulary: Tokenizer) -> None:
        super().__init__()
        self.config: BaseConfig = config
        self.vocabulary: Tokenizer = vocabulary
        self.audio: AudioEncoder = AUDIO[config.model.audio](config)
        self.text: TextEncoder = TEXT[config.model.text](config, vocabulary)
        self.audio_head: Head = Head(self.audio.width, config.model)
        self.text_head: Head = Head(self.text.width, config.model)
        options = config.model
        if options.score not in SCORES:
            raise ValueError(f"model.score: got {options.score!r}, want one of {', '.join(SCORES)}.")
        if not (options.scale_min or 0) < options.scale_init < options.scale_max:
            least = "0" if options.scale_min is None else f"model.scale_min={options.scale_min}"
            limits = f"above {least} and below model.scale_max={options.scale_max}"
            raise ValueError(f"model.scale_init: got {options.scale_init}, want {limits}.")
        self._scale_bounds = scale_bounds(options)
        log_scale = unbound(math.log(options.scale_init), *self._scale_bounds)
        self.log_scale: nn.Parameter = nn.Parameter(torch.tensor(log_scale, dtype=torch.float32))
        self.bias: nn.Parameter = nn.Parameter(torch.tensor(float(options.bias_init), dtype=torch.float32))

    @property
    def scale(self) -> Tensor:
        """exp(log_scale), smoothly kept between `scale_min` and `scale_max`; a 0-d float32 tensor that learns."""
        return bound(self.log_scale, *self._scale_bounds).exp()

    def audio_grid(self, audio: Tensor, frames: Tensor) -> Tensor:
        """Which audio tokens may be masked, bool [B, T]."""
        return self.audio.grid(audio, frames)

    def text_grid(self, tokens: Tensor) -> Tensor:
        """Which text tokens may be masked, bool [B, L]; never padding or the end token."""
        return self.text.grid(tokens, None)

    def encode_audio(
        self, audio: Tensor, frames: Tensor, masked: Tensor | None = None, mode: str = "substitute"
    ) -> Gaussian:
        """Log-mel [B, frames, mels], valid frames [B] -> Gaussian [B, dim]; `masked` as audio_grid, True hides.

        `mode` "delete" is "substitute" for an encoder that cannot leave tokens out (`can_delete`).
        """
        return self.audio_head(self.audio(audio, frames, masked, _possible(mode, self.audio)))

    def encode_text(self, tokens: Tensor, masked: Tensor | None = None, mode: str = "substitute") -> Gaussian:
        """Tokens int64 [B, L] -> Gaussian [B, dim]; `masked` as text_grid, True hides; `mode` as in encode_audio."""
        return self.text_head(self.text(tokens, None, masked, _possible(mode, self.text)))

    def embed_audio(
        self, audio: Sequence[str | Path | Tensor | np.ndarray], sample_rate: int | None = None, batch_size: int = 256
    ) -> Gaussian:
        """Embed sound files or waveforms; evaluation mode, no gradient, float32 [N, dim] on the model's device.

        audio: paths (read with soundfile, at any sample rate), or waveforms [T] or [channels, T] at `sample_rate` Hz,
        which tensors and arrays need and paths refuse. Sound is resampled (soxr) and mixed to mono, and its first
        `config.data.eval_seconds` seconds (if that is none, `seconds`) are used. The same sound always has the same
        embedding, whatever else is in the list.
        """
        _check_audio(audio, sample_rate)
        logmel = make_features(self.config.data)

        def embed(part: Sequence[Any]) -> Gaussian:
            features = [logmel(self._waveform(item, sample_rate)) for item in part]
            frames = torch.tensor([feature.shape[0] for feature in features])
            padded = nn.utils.rnn.pad_sequence(features, batch_first=True)
            return self.encode_audio(padded.to(self.bias.device), frames.to(self.bias.device))

        return self._embed(embed, audio, batch_size)

    def embed_text(self, texts: Sequence[str], batch_size: int = 256) -> Gaussian:
        """Embed captions ("" is allowed); evaluation mode, no gradient, float32 [N, dim] on the model's device."""
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise TypeError(f"texts: got {type(texts).__name__}, want a list of str.")
        if not len(texts):
            raise ValueError("texts: got an empty list, want at least one caption.")
        return self._embed(lambda part: self.encode_text(self.vocabulary(part).to(self.bias.device)), texts, batch_size)

    def _embed(self, embed: Callable[[Sequence[Any]], Gaussian], items: Sequence[Any], batch_size: int) -> Gaussian:
        with evaluating(self):
            parts = [embed(items[start : start + batch_size]) for start in range(0, len(items), batch_size)]
        return concatenate(parts)

    def _waveform(self, item: Any, sample_rate: int | None) -> Tensor:
        data = self.config.data
        seconds = data.seconds if data.eval_seconds is None else data.eval_seconds
        if isinstance(item, str | Path):
            return read(item, data.sample_rate, seconds=seconds)
        wave = torch.as_tensor(item).detach().to("cpu", torch.float32)
        wave = wave.mean(dim=0) if wave.ndim == 2 else wave
        return resample(wave[: round(seconds * (sample_rate or 0))], sample_rate or 0, data.sample_rate)


def concatenate(parts: Sequence[Gaussian]) -> Gaussian:
    """Gaussians one below the other."""
    return Gaussian(torch.cat([part.mean for part in parts]), torch.cat([part.logvar for part in parts]))


@contextmanager
def evaluating(*models: nn.Module | Any) -> Iterator[None]:
    """Evaluation mode and no gradients; the mode of each module is put back afterwards. What is no module is left alone."""
    modules = [model for model in models if isinstance(model, nn.Module)]
    training = {module: module.training for model in modules for module in model.modules()}
    for model in modules:
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in training.items():
            module.training = mode


def build_tokenizer(config: BaseConfig, texts: Iterable[str]) -> Tokenizer:
    """The tokenizer that `config.model.text` reads; `texts` are the training captions, where it is made of them.

    Where captions will be joined (`config.mix`), the joining words are known too.
    """
    texts = chain(texts, WORDS) if config.mix.share else texts
    return TEXT[config.model.text].tokenizer.new(config.model, texts)


def build_model(config: BaseConfig, vocabulary: Tokenizer) -> ProLAP:
    """A new model; the same (config, vocabulary) always has the same weights, whatever was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_generator(config.seed, "model").initial_seed())
        return ProLAP(config, vocabulary)


def _possible(mode: str, encoder: Encoder) -> str:
    return "substitute" if mode == "delete" and not encoder.can_delete else mode


def _check_audio(audio: Any, sample_rate: int | None) -> None:
    if isinstance(audio, str | Path | Tensor | np.ndarray):
        raise TypeError(f"audio: got a single {type(audio).__name__}, want a list of paths or of waveforms.")
    if not len(audio):
        raise ValueError("audio: got an empty list, want at least one path or waveform.")
    paths = [isinstance(item, str | Path) for item in audio]
    for item, path in zip(audio, paths, strict=True):
        if not path and not isinstance(item, Tensor | np.ndarray):
            raise TypeError(f"audio: got a {type(item).__name__} in the list, want paths or waveforms.")
        if not path and (item.ndim not in (1, 2) or not item.shape[-1]):
            raise ValueError(f"audio: got a waveform of shape {tuple(item.shape)}, want [T] or [channels, T], T > 0.")
    if not all(paths) and (sample_rate is None or sample_rate <= 0):
        raise ValueError(f"sample_rate: got {sample_rate}, want the waveforms' sample rate in Hz.")
    if any(paths) and sample_rate is not None:
        raise ValueError(f"sample_rate: got {sample_rate} with paths; a file knows its own, want None.")
