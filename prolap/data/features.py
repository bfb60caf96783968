"""Log-mel frames of a waveform, by recipe: ours, and those that the public checkpoints were trained with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cached_property, partial
from typing import Protocol

import torch
from torch import Tensor

from prolap.config import DataConfig
from prolap.config.options import ConfigError

FLOOR = 1e-9  # added to the mel power before the logarithm: -90 dB of a full-scale sine
MEAN = -17.5  # natural logarithm of the mel power over the embedded scenes, rounded
STD = 3.5
LOWEST = 50.0  # Hz, lower edge of the first mel band
VERSION = 1  # part of the names of cached log-mels


class Features(Protocol):
    """A recipe: waveform [T] at `sample_rate` Hz -> log-mel [frames(T), mels] float32."""

    name: str
    window: int
    hop: int
    mels: int
    sample_rate: int
    window_frames: int
    """The frames that an encoder of windows hears at once."""
    mean: float
    std: float
    """Roughly the mean and the standard deviation of the values."""

    def frames(self, samples: int) -> int:
        """How many frames a waveform of so many samples has, at least 1."""
        ...

    def __call__(self, waveform: Tensor) -> Tensor: ...


class LogMel:
    """x = (ln(mel power + 1e-9) - MEAN) / STD.

    Power: |FFT(hann window * frame)|^2 / (sum of the window / 2)^2, so that a full-scale sine has power 1 whatever the
    window; frames are centred on multiples of `hop`, the edges padded with silence. Slaney mel bands from 50 Hz to half
    the sample rate, the weights of a band summing to about one. MEAN and STD are fixed constants,
    measured once on the embedded scenes, not statistics of the data at hand.

    Shapes: waveform [T] at `config.sample_rate` -> [T // hop, mels] float32, at least one frame.
    Errors: ValueError for a waveform that is empty or not one-dimensional.
    """

    name = "prolap"
    window_frames = 1024
    mean, std = 0.0, 1.0

    def __init__(self, config: DataConfig) -> None:
        self.window = config.window
        self.hop = config.hop
        self.mels = config.mels
        self.sample_rate = config.sample_rate
        self._hann = torch.hann_window(config.window) / (config.window / 4)

    @cached_property
    def bank(self) -> Tensor:
        """[window // 2 + 1, mels] float32, made at first use because torchaudio is slow to import."""
        return _slaney(self.window, self.mels, self.sample_rate, self.sample_rate / 2) * (
            self.sample_rate / self.window
        )

    def frames(self, samples: int) -> int:
        return max(1, samples // self.hop)

    def __call__(self, waveform: Tensor) -> Tensor:
        _check(waveform)
        half = self.window // 2
        count = self.frames(waveform.numel())
        short = (count - 1) * self.hop + self.window - waveform.numel() - half
        padded = torch.nn.functional.pad(waveform.float(), (half, max(0, short)))
        frames = padded.unfold(0, self.window, self.hop)[:count] * self._hann
        mels: Tensor = ((_power(frames) @ self.bank + FLOOR).log() - MEAN) / STD
        return mels


class DecibelMel:
    """x = 10·log10(max(mel power, 1e-10)), the log-mel of the public CLAP models; not normalised (they do it themselves).

    Power: |FFT(periodic hann window * frame)|^2, frames centred on multiples of `hop`, the edges reflected (a waveform of
    half a window or less is lengthened by silence first). 64 Slaney mel bands of equal area, from 50 Hz to 14 kHz as
    the bank was made: `bank_rate` is the sample rate that it was made for. `seconds`: what the models hear at once.

    "clap": 48 kHz, window 1024, hop 480; equals transformers' ClapFeatureExtractor (truncation "rand_trunc", 50 Hz to
    14 kHz), and so what LAION-CLAP (unfused) reads; 10 s are 1001 frames.
    "msclap": 44.1 kHz, window 1024, hop 320. MS-CLAP 2023 was trained with a bank made for 32 kHz on sound of 44.1 kHz,
    and so are its weights: its bands lie 44.1 / 32 times higher than they say, from 69 Hz to 19.3 kHz. Kept as it is.
    7 s are 965 frames.

    Shapes: waveform [T] -> [T // hop + 1, 64] float32.
    Errors: ConfigError if the configuration asks for another sample rate, window, hop or number of bands; ValueError for a
    waveform that is empty or not one-dimensional.
    """

    window, mels = 1024, 64
    mean, std = -30.0, 20.0

    def __init__(
        self, config: DataConfig, *, name: str, sample_rate: int, hop: int, bank_rate: int, seconds: int
    ) -> None:
        self.name, self.sample_rate, self.hop, self.bank_rate = name, sample_rate, hop, bank_rate
        recipe = {"sample_rate": sample_rate, "window": self.window, "hop": hop, "mels": self.mels}
        wrong = [f"data.{key}={getattr(config, key)}" for key, value in recipe.items() if getattr(config, key) != value]
        if wrong:
            need = " ".join(f"data.{key}={value}" for key, value in recipe.items())
            raise ConfigError(f"data.features: got {name} with {', '.join(wrong)}, want {need}.")
        self.window_frames = self.frames(seconds * sample_rate)
        self._hann = torch.hann_window(self.window)

    @cached_property
    def bank(self) -> Tensor:
        """[513, 64] float32, as `bank_rate` makes it."""
        return _slaney(self.window, self.mels, self.bank_rate, 14_000.0)

    def frames(self, samples: int) -> int:
        return samples // self.hop + 1

    def __call__(self, waveform: Tensor) -> Tensor:
        _check(waveform)
        half, count = self.window // 2, self.frames(waveform.numel())
        sound = torch.nn.functional.pad(waveform.float(), (0, max(0, half + 1 - waveform.numel())))
        padded = torch.nn.functional.pad(sound[None], (half, half), mode="reflect")[0]
        frames = padded.unfold(0, self.window, self.hop)[:count] * self._hann
        mels: Tensor = 10 * (_power(frames) @ self.bank).clamp(min=1e-10).log10()
        return mels


FEATURES: dict[str, Callable[[DataConfig], Features]] = {
    "prolap": LogMel,
    "msclap": partial(DecibelMel, name="msclap", sample_rate=44_100, hop=320, bank_rate=32_000, seconds=7),
    "clap": partial(DecibelMel, name="clap", sample_rate=48_000, hop=480, bank_rate=48_000, seconds=10),
}


def streamed(recipe: Features, waveforms: Iterable[Tensor]) -> Tensor:
    """The log-mel [frames, mels] of the waveforms one after the other, as of one, with memory for two of them.

    Frames that would hear the edge of a waveform are computed with its neighbour; of one waveform it is the recipe itself.
    """
    edge = math.ceil(recipe.window / 2 / recipe.hop) + 1  # frames
    mels, first = list[Tensor](), 0
    waveforms = iter(waveforms)
    sound = next(waveforms)
    for following in waveforms:
        last = len(sound) // recipe.hop - edge
        if last > first:
            mels.append(recipe(sound)[first:last])
            sound, first = sound[(last - edge) * recipe.hop :], edge
        sound = torch.cat([sound, following])
    return torch.cat([*mels, recipe(sound)[first:]])


def make_features(config: DataConfig) -> Features:
    """The recipe named `config.features`.

    Errors: ConfigError for an unknown name, or options that do not fit the recipe.
    """
    if config.features not in FEATURES:
        raise ConfigError(f"data.features: got {config.features!r}, want one of {', '.join(FEATURES)}.")
    shortest = config.hop / config.sample_rate
    for name, seconds in (("seconds", config.seconds), ("eval_seconds", config.eval_seconds)):
        if seconds is not None and seconds < shortest:
            raise ConfigError(
                f"data.{name}: got {seconds:g}, want {shortest:g} or more, one frame (data.hop / data.sample_rate)."
            )
    return FEATURES[config.features](config)


def _slaney(window: int, mels: int, sample_rate: int, top: float) -> Tensor:
    from torchaudio.functional import melscale_fbanks

    bank: Tensor = melscale_fbanks(window // 2 + 1, LOWEST, top, mels, sample_rate, norm="slaney", mel_scale="slaney")
    return bank


def _power(frames: Tensor) -> Tensor:
    spectrum = torch.fft.rfft(frames)
    return spectrum.real.square() + spectrum.imag.square()


def _check(waveform: Tensor) -> None:
    if waveform.dim() != 1 or waveform.numel() == 0:
        raise ValueError(f"waveform must be one non-empty channel [T], got shape {tuple(waveform.shape)}")
