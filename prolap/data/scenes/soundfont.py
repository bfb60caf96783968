"""The note bank: short recordings of every sound source, rendered once from a General MIDI soundfont and cached."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import logging
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prolap.config import DataConfig
from prolap.data import cache
from prolap.data.scenes.sources import SOURCES, Source
from prolap.utils.environment import optional
from prolap.utils.progress import Progress, reporter

FORMAT = 3  # part of the file name: raise it when the contents change their meaning
SECONDS = 2.0
SILENT = 1e-4  # RMS of full scale: quieter notes count as missing
BLOCK = 0.025  # seconds over which energies are kept
LOUD_BLOCKS = 10  # the level of a sound is that of its loudest quarter of a second
PERCUSSION = 9  # the drum channel of General MIDI, counted from 0
FEWEST = 20  # sources that a soundfont must have for scenes to make sense

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bank:
    """Rendered notes.

    notes: [sources, 12, samples] int16, each note scaled to a peak of 0.98 of full scale.
    energy: [sources, 12, blocks] float32, mean square of each 25 ms of the scaled note, full scale 1.
    silent: sources without sound in this soundfont; their rows are zero.
    checksum: of the contents, 32 hexadecimal digits.
    """

    notes: NDArray[np.int16]
    energy: NDArray[np.float32]
    sample_rate: int
    checksum: str

    @property
    def silent(self) -> frozenset[str]:
        return frozenset(
            source.key for source, notes in zip(SOURCES, self.energy, strict=True) if not notes.any(axis=1).all()
        )

    def level(self, row: int, pick: int, start: float, seconds: float) -> float:
        """RMS of the loudest quarter of a second (all of it, if it is shorter) of the part of a note that is played."""
        first, blocks = round(start / BLOCK), max(1, round(seconds / BLOCK))
        if first == 0:
            return float(self._levels[row, pick, min(blocks, self._levels.shape[2]) - 1])
        return _loudest(self.energy[row, pick, first : first + blocks])

    @functools.cached_property
    def _levels(self) -> NDArray[np.float64]:
        """[sources, 12, blocks]: `level` of the first 1, 2, ... blocks of each note, looked up for every note played."""
        sums = np.cumsum(self.energy, axis=2, dtype=np.float64)
        counts = np.minimum(np.arange(1, sums.shape[2] + 1), LOUD_BLOCKS)
        sums[..., LOUD_BLOCKS:] -= sums[..., :-LOUD_BLOCKS].copy()
        sums[..., LOUD_BLOCKS - 1 :] = np.maximum.accumulate(sums[..., LOUD_BLOCKS - 1 :], axis=2)
        levels: NDArray[np.float64] = np.sqrt(sums / counts)
        return levels

    def loudest_start(self, row: int, pick: int, seconds: float) -> float:
        """Where the part of so many seconds with the most energy starts, in seconds."""
        blocks = max(1, round(seconds / BLOCK))
        sums = np.convolve(self.energy[row, pick], np.ones(blocks, np.float32), "valid")
        return float(np.argmax(sums) * BLOCK)


def _loudest(energy: NDArray[np.float32]) -> float:
    """RMS of the loudest LOUD_BLOCKS of the blocks."""
    if energy.size <= LOUD_BLOCKS:
        return float(np.sqrt(energy.mean(dtype=np.float64)))
    sums = np.cumsum(np.concatenate((np.zeros(1), energy)))
    return float(np.sqrt((sums[LOUD_BLOCKS:] - sums[:-LOUD_BLOCKS]).max() / LOUD_BLOCKS))


def default_soundfont() -> Path:
    """TimGM6mb.sf2 as the package `pretty_midi` ships it; found without importing that package.

    Errors: ModuleNotFoundError if the package is missing.
    """
    spec = importlib.util.find_spec("pretty_midi")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("the embedded scenes need the soundfont in pretty_midi: pip install prolap[train]")
    return Path(spec.origin).parent / "TimGM6mb.sf2"


def read_soundfont(path: str | None) -> bytes:
    """The bytes of a .sf2 file; None reads the default one.

    Errors: FileNotFoundError or ValueError, naming `data.soundfont`.
    """
    file = default_soundfont() if path is None else Path(path).expanduser()
    try:
        content = file.read_bytes()
    except OSError as error:
        raise FileNotFoundError(f"data.soundfont: cannot read {file} ({error.strerror}); wanted a .sf2 file") from error
    if content[:4] != b"RIFF" or content[8:12] != b"sfbk":
        raise ValueError(f"data.soundfont: {file} is no SoundFont 2 file (it lacks the RIFF sfbk header)")
    return content


def _variable_length(ticks: int) -> bytes:
    parts = [ticks & 127]
    while ticks := ticks >> 7:
        parts.append(ticks & 127 | 128)
    return bytes(reversed(parts))


def _midi_file(events: list[tuple[int, bytes]]) -> bytes:
    """A one-track MIDI file of (milliseconds, message) events."""
    track, now = b"", 0
    for time, message in sorted(events, key=lambda event: event[0]):
        track += _variable_length(time - now) + message
        now = time
    track += b"\x00\xff\x2f\x00"
    # 500 ticks a quarter at the default tempo of 120 a minute: one tick is one millisecond
    header = struct.pack(">4sIHHH", b"MThd", 6, 0, 1, 500)
    return header + struct.pack(">4sI", b"MTrk", len(track)) + track


def single_notes(program: int | None, notes: list[tuple[int, int]], slot: int, hold: int) -> bytes:
    """Notes (pitch, velocity) one by one, each alone in a slot of `slot` ms and held for `hold` ms.

    program: General MIDI program counted from 0; None plays the percussion channel. Reverb and chorus are off, and
    every slot ends with "all sound off", so nothing rings into the next one.
    """
    channel = PERCUSSION if program is None else 0
    events = [(0, bytes((0xB0 | channel, 91, 0))), (0, bytes((0xB0 | channel, 93, 0)))]
    if program is not None:
        events.append((0, bytes((0xC0, program))))
    for n, (pitch, velocity) in enumerate(notes):
        events.append((n * slot + 2, bytes((0x90 | channel, pitch, velocity))))
        events.append((n * slot + hold, bytes((0x80 | channel, pitch, 0))))
        events.append(((n + 1) * slot - 2, bytes((0xB0 | channel, 120, 0))))
    return _midi_file(events)


def _render_source(font: bytes, source: Source, sample_rate: int) -> NDArray[np.float32]:
    """[12, samples] mono float32, unscaled."""
    packages = ("midirenderer", "soundfile", "soxr")
    midirenderer, soundfile, soxr = (optional(name, f"rendering needs {name}") for name in packages)
    slot = round(SECONDS * 1000)
    hold = slot - 4 if source.style == "texture" else slot * 3 // 4
    song = single_notes(source.program, source.notes(), slot, hold)
    wave, rate = soundfile.read(io.BytesIO(midirenderer.render_wave_from(font, song)), dtype="float32")
    mono = soxr.resample(wave.mean(axis=1), rate, sample_rate)
    count, samples = len(source.notes()), round(SECONDS * sample_rate)
    out = np.zeros(count * samples, np.float32)
    out[: min(out.size, mono.size)] = mono[: out.size]
    return out.reshape(count, samples)


def _energy(notes: NDArray[np.float32], sample_rate: int) -> NDArray[np.float32]:
    """Mean square of each block of each row."""
    count, block = round(SECONDS / BLOCK), round(BLOCK * sample_rate)
    squares = (notes[:, : count * block] ** 2).reshape(len(notes), count, -1)
    mean: NDArray[np.float64] = squares.mean(axis=2, dtype=np.float64)
    return mean.astype(np.float32)


def render(font: bytes, sample_rate: int, progress: Progress) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """Notes and energies of all sources, about 15 seconds of one CPU core."""
    samples = round(SECONDS * sample_rate)
    notes = np.zeros((len(SOURCES), 12, samples), np.int16)
    energy = np.zeros((len(SOURCES), 12, round(SECONDS / BLOCK)), np.float32)
    for row, source in enumerate(SOURCES):
        wave = _render_source(font, source, sample_rate)
        if all(_loudest(row_energy) > SILENT for row_energy in _energy(wave, sample_rate)):
            wave *= 0.98 / np.abs(wave).max(axis=1, keepdims=True)
            notes[row] = np.round(wave * 32767)
            energy[row] = _energy(wave, sample_rate)
        progress("rendering notes", row + 1, len(SOURCES))
    return notes, energy


def _digest(notes: NDArray[np.int16], energy: NDArray[np.float32]) -> NDArray[np.uint8]:
    hashed = hashlib.blake2b(notes.data, digest_size=16)
    hashed.update(energy.tobytes())
    return np.frombuffer(hashed.digest(), np.uint8)


def _is_whole(arrays: dict[str, np.ndarray]) -> bool:
    return np.array_equal(_digest(arrays["notes"], arrays["energy"]), arrays["digest"])


def load_bank(config: DataConfig, progress: Progress | None = None) -> Bank:
    """The note bank of `config.soundfont` at `config.sample_rate`, from the cache or rendered into it.

    Errors: FileNotFoundError or ValueError if the soundfont cannot be read or has fewer than 20 of the sources.
    """
    font = read_soundfont(config.soundfont)
    digest, sources = hashlib.blake2b(font, digest_size=16).hexdigest(), [source[:5] for source in SOURCES]
    name = cache.key(format=FORMAT, font=digest, rate=config.sample_rate, seconds=SECONDS, sources=sources)
    path = cache.folder(config.cache) / f"notes-{name}.npz"
    cached = cache.load_arrays(path, _is_whole, "the note bank")
    if cached is not None:
        arrays = cached["notes"], cached["energy"]
    else:
        with reporter(progress) as report:
            arrays = render(font, config.sample_rate, report)
        cache.save_arrays(path, notes=arrays[0], energy=arrays[1], digest=_digest(*arrays))
    bank = Bank(*arrays, config.sample_rate, _digest(*arrays).tobytes().hex())
    if len(SOURCES) - len(bank.silent) < FEWEST:
        raise ValueError(f"data.soundfont: only {len(SOURCES) - len(bank.silent)} of {len(SOURCES)} sources sound")
    if bank.silent:
        log.warning("sources without sound in this soundfont are left out: %s", ", ".join(sorted(bank.silent)))
    return bank
