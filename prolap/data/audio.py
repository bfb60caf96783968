"""Audio files as mono waveforms of one sample rate."""

from __future__ import annotations

import contextlib
import os
import re
import stat
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

NO_FILE = "no such file"
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
PIECE = 1 << 20
"""Samples of all channels decoded at a time, 4 MiB."""
STRETCH = 60.0
"""Seconds of a long sound that are worked on at a time."""


CAREFUL = 1 << 14
"""Samples at a time where damage is looked for: libsndfile fills larger gaps with silence."""
UNKNOWN = 0x7FFF0000
"""Bytes from which on the size in a header means nothing."""
_PROMISED = re.compile(r"^\s*(?:data|SSND)\s*:\s*(?P<stated>\d+) \(should be (?P<held>\d+)\)", re.MULTILINE)
_SKIPPED = re.compile(r"reports a hole|Corrupted bitstream|Junk after the last page|end-of-stream", re.IGNORECASE)
"""What libsndfile notes down on files with fewer bytes than their header says, and on Ogg pages that are missing."""


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
    """A soundfile.SoundFile; whatever goes wrong with it is an AudioError. Only files are opened: a pipe would wait for ever."""
    soundfile = optional("soundfile", "reading audio files needs soundfile and soxr")
    try:
        mode = os.stat(path.archive if isinstance(path, Member) else path).st_mode
        if not stat.S_ISREG(mode):
            raise AudioError(f"{path}: is {KINDS.get(stat.S_IFMT(mode), 'a device')}, want a file")
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(path.open()) if isinstance(path, Member) else str(path)
            yield stack.enter_context(soundfile.SoundFile(file))
    except AudioError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise AudioError(f"{path}: {NO_FILE}") from error
    except (
        soundfile.SoundFileError,
        RuntimeError,
        OSError,
        ValueError,
        TypeError,
    ) as error:  # TypeError: of .raw files
        reason = error.strerror if isinstance(error, OSError) else f"not readable as audio ({error})".replace("\n", " ")
        raise AudioError(f"{path}: {reason}") from error


def probe(path: Source, seconds: float) -> tuple[Info, int]:
    """The header of an audio file, and how many of the samples of its first `seconds` it really holds.

    Errors: AudioError if it is missing, no audio file, or holds numbers that are not finite there.
    """
    with _opened(path) as file:
        header = Info(file.frames, file.samplerate, file.channels)
        return header, sum(len(piece) for piece in _mono(path, file, round(seconds * header.sample_rate)))


def info(path: Source) -> Info:
    """The header of an audio file; AudioError as for `probe`."""
    return probe(path, 0.0)[0]


def read(path: Source, sample_rate: int, start: float = 0.0, seconds: float | None = None) -> Tensor:
    """The waveform [T] float32: channels averaged, resampled to `sample_rate` (Hz) by soxr.

    start, seconds: the part to read; None reads to the end.
    Errors: AudioError if the file is missing, no audio, empty there, or holds numbers that are not finite.
    """
    with _opened(path) as file:
        rate = file.samplerate
        file.seek(min(round(start * rate), max(0, file.frames)))
        pieces = list(_mono(path, file, None if seconds is None else round(seconds * rate)))
    if not pieces:
        raise AudioError(f"{path}: no samples from second {start:g} on")
    return _named(path, torch.from_numpy(np.concatenate(pieces)), rate, sample_rate)


def stream(path: Source, sample_rate: int, seconds: float) -> Iterator[Tensor]:
    """The first `seconds` of a file as `read` gives them, in waveforms of about `STRETCH` seconds; a shorter file is one."""
    with _opened(path) as file:
        rate, resampler, held = file.samplerate, None, list[np.ndarray]()
        for piece in _mono(path, file, round(seconds * rate)):
            if sum(map(len, held)) >= STRETCH * rate:
                resampler = resampler or _Resampler(rate, sample_rate)
                yield resampler(held)
                held = []
            held.append(piece)
    if not held:
        raise AudioError(f"{path}: no samples")
    if resampler is None:
        yield _named(path, torch.from_numpy(np.concatenate(held)), rate, sample_rate)
    else:
        yield resampler(held, last=True)


def _mono(path: Source, file: Any, count: int | None) -> Iterator[np.ndarray]:
    """The next `count` samples (None: all) of an open file, channels averaged, in pieces of bounded size."""
    left = file.frames if count is None else count
    size = max(1, min(PIECE // file.channels, int(STRETCH * file.samplerate)))
    while left > 0 and len(piece := file.read(min(left, size), dtype="float32", always_2d=True)):
        mono = piece.mean(axis=1) if file.channels > 1 else piece[:, 0]
        if not np.isfinite(mono).all():
            raise AudioError(f"{path}: holds samples that are not finite")
        left -= len(mono)
        yield mono


def decoded(path: Source) -> Iterator[np.ndarray]:
    """The whole file piece by piece, [n, channels] float32 at its own rate.

    Errors: AudioError as for `read`; at its end also if the file holds fewer samples than it promises, or parts were skipped.
    """
    with _opened(path) as file:
        notes, samples = file.extra_info, 0
        while len(piece := file.read(CAREFUL, dtype="float32", always_2d=True)):
            if not np.isfinite(piece).all():
                raise AudioError(f"{path}: holds samples that are not finite")
            samples += len(piece)
            yield piece
        promised, notes = file.frames, notes + file.extra_info
        if size := _PROMISED.search(notes):
            stated, held = int(size["stated"]), int(size["held"])
            if held < stated < UNKNOWN:  # programs that write to a pipe leave a number that no file reaches
                promised = promised * stated // max(1, held)
        if samples < promised:
            raise AudioError(f"{path}: holds {samples:,} of the {promised:,} samples that it promises")
        if _SKIPPED.search(notes):
            raise AudioError(f"{path}: is damaged or cut short: the decoder skipped a part or missed the last page")


class _Resampler:
    """soxr on pieces of one sound."""

    def __init__(self, rate: int, sample_rate: int) -> None:
        soxr = optional("soxr", "resampling needs soxr")
        self._stream = None if rate == sample_rate else soxr.ResampleStream(rate, sample_rate, 1, dtype="float32")

    def __call__(self, pieces: list[np.ndarray], last: bool = False) -> Tensor:
        sound = np.concatenate(pieces)
        return torch.from_numpy(sound if self._stream is None else self._stream.resample_chunk(sound, last=last))


def _named(path: Source, waveform: Tensor, rate: int, sample_rate: int) -> Tensor:
    try:
        return resample(waveform, rate, sample_rate)
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


def pad(waveform: Tensor, samples: int) -> Tensor:
    """The waveform [T] followed by silence up to `samples`; longer ones stay as they are."""
    return torch.nn.functional.pad(waveform, (0, max(0, samples - waveform.numel())))
