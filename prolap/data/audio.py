"""Audio files as mono waveforms of one sample rate."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from prolap.data.files.tar import Member
from prolap.utils.environment import optional

Source = str | Path | Member
"""A file of its own, or one in a tar archive."""
SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".opus", ".aiff", ".aif")
"""What is taken for sound where a folder or an archive is searched; libsndfile reads them all."""


class AudioError(ValueError):
    """A file that cannot be used, with the reason in one sentence."""


class Info(NamedTuple):
    """Header of a file."""

    samples: int
    """Per channel, at the file's own rate."""
    sample_rate: int
    """Hz."""
    channels: int = 1

    @property
    def seconds(self) -> float:
        return self.samples / self.sample_rate


@contextlib.contextmanager
def _opened(path: Source) -> Iterator[Any]:
    """A soundfile.SoundFile; whatever goes wrong with it is an AudioError."""
    soundfile = optional("soundfile", "reading audio files needs soundfile and soxr")
    try:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(path.open()) if isinstance(path, Member) else str(path)
            yield stack.enter_context(soundfile.SoundFile(file))
    except (soundfile.SoundFileError, RuntimeError, OSError) as error:
        raise AudioError(f"{path}: {_reason(path, error)}") from error


def info(path: Source) -> Info:
    """The header of an audio file.

    Errors: AudioError if it is missing or no audio file.
    """
    with _opened(path) as file:
        return Info(file.frames, file.samplerate, file.channels)


def read(path: Source, sample_rate: int, start: float = 0.0, seconds: float | None = None) -> Tensor:
    """The waveform [T] float32: channels averaged, resampled to `sample_rate` (Hz) by soxr.

    start, seconds: the part to read; None reads to the end.
    Errors: AudioError if the file is missing, no audio, empty there, or holds numbers that are not finite.
    """
    with _opened(path) as file:
        rate = file.samplerate
        file.seek(min(round(start * rate), max(0, file.frames)))
        count = -1 if seconds is None else round(seconds * rate)
        sound = file.read(count, dtype="float32", always_2d=True)
    if not len(sound):
        raise AudioError(f"{path}: no samples from second {start:g} on")
    mono = sound.mean(axis=1)
    if not np.isfinite(mono).all():
        raise AudioError(f"{path}: holds samples that are not finite")
    try:
        return resample(torch.from_numpy(mono), rate, sample_rate)
    except AudioError as error:
        raise AudioError(f"{path}: {error}") from error


def resample(waveform: Tensor, rate: int, sample_rate: int) -> Tensor:
    """The waveform [T] float32 of `rate` Hz at `sample_rate` Hz, by soxr.

    Errors: AudioError if it is shorter than one sample there.
    """
    if rate == sample_rate:
        return waveform
    soxr = optional("soxr", "resampling needs soxr")
    out = np.ascontiguousarray(soxr.resample(waveform.numpy(), rate, sample_rate), dtype=np.float32)
    if not out.size:
        raise AudioError(f"{waveform.numel()} samples at {rate} Hz are shorter than one sample at {sample_rate} Hz")
    return torch.from_numpy(out)


def blocks(path: Source, size: int = 1 << 18) -> Iterator[np.ndarray]:
    """The whole file piece by piece, [up to `size`, channels] float32 at its own rate; AudioError as for `read`."""
    with _opened(path) as file:
        while len(piece := file.read(size, dtype="float32", always_2d=True)):
            yield piece


def _reason(path: Source, error: Exception) -> str:
    if not (path.archive if isinstance(path, Member) else Path(path)).exists():
        return "no such file"
    return f"not readable as audio ({error})".replace("\n", " ")


def pad(waveform: Tensor, samples: int) -> Tensor:
    """The waveform [T] followed by silence up to `samples`; longer ones stay as they are."""
    return torch.nn.functional.pad(waveform, (0, max(0, samples - waveform.numel())))
