"""From a planned scene to its sound."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prolap.data.scenes.plan import Event, Scene
from prolap.data.scenes.soundfont import Bank
from prolap.data.scenes.sources import BY_KEY, SOURCES
from prolap.utils.seeding import numpy_generator

VERSION = 2  # raise it when the same plan sounds different
LEVELS = {"soft": -45.0, "": -35.0, "loud": -25.0}  # dB of full scale, RMS of a note's loudest quarter second
JITTER = 1.5  # dB
PAUSE = {"slow": (0.45, 0.6), "fast": (0.13, 0.18)}  # seconds between two onsets
BRIEF = (0.35, 0.5)  # seconds
FADE = 0.01  # seconds
LONGEST = 2.0  # seconds of a recording in the bank
STEP = 1.7  # seconds from one recording of a lasting texture to the next: they overlap by their fades
BOOST = 6.0  # how much more a note may be amplified when only its slow beginning is played
ROWS = {source.key: row for row, source in enumerate(SOURCES)}


def _times(scene: Scene, seconds: float, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Start and end of each event, in seconds."""
    count = len(scene.events)
    if scene.relation == "then":
        edges = np.arange(count + 1) * (seconds / count)
        starts = edges[:-1] + rng.uniform(0.02, 0.08, count)
        return [(float(s), float(e)) for s, e in zip(starts, edges[1:], strict=True)]
    starts = rng.uniform(0.0, 0.25, count)
    if scene.relation == "joined":
        starts[0] = rng.uniform(0.0, 0.1)
        starts[1:] = rng.uniform(0.45, 0.55) * seconds
    return [(float(s), seconds) for s in starts]


def _walk(rng: np.random.Generator, register: str, count: int) -> list[int]:
    """Note numbers within the bank: a small random walk in the register, no note twice in a row."""
    base = 6 if register == "high" else 0
    note = int(rng.integers(6))
    out = [base + note]
    for step in rng.integers(1, 3, count - 1) * rng.choice((-1, 1), count - 1):
        note = note + step if 0 <= note + step <= 5 else note - step
        out.append(base + int(note))
    return out


def _onsets(event: Event, start: float, end: float, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Start and length in seconds of every note of an event."""
    if event.rhythm == "lasting":
        return [(t, min(LONGEST, end - t)) for t in np.arange(start, end - 0.3, STEP).tolist()]
    if event.rhythm == "brief":
        return [(start, float(rng.uniform(*BRIEF)))]
    if event.rhythm == "single":
        return [(start, min(LONGEST, end - start))]
    pause = float(rng.uniform(*PAUSE[event.rhythm]))
    length = pause if BY_KEY[event.source].style == "melodic" else 1.5 * pause
    return [(t, min(length, end - t)) for t in np.arange(start, end - 0.1, pause).tolist()]


def _add(out: NDArray[np.float32], note: NDArray[np.int16], gain: float, at: int, fades: tuple[int, int]) -> None:
    """Add a note from sample `at` on, faded in and out over so many samples."""
    size = min(note.size, out.size - at)
    if size <= 0:
        return
    sound = note[:size] * np.float32(gain / 32767)
    into, outof = min(fades[0], size), min(fades[1], size)
    sound[:into] *= np.linspace(0.0, 1.0, into, dtype=np.float32)
    sound[size - outof :] *= np.linspace(1.0, 0.0, outof, dtype=np.float32)
    out[at : at + size] += sound


def _play(
    out: NDArray[np.float32], event: Event, start: float, end: float, bank: Bank, rng: np.random.Generator
) -> None:
    """Add an event between `start` and `end` (seconds)."""
    rate, row = bank.sample_rate, ROWS[event.source]
    melodic = BY_KEY[event.source].style == "melodic"
    onsets = _onsets(event, start, end, rng)
    picks = _walk(rng, event.register, len(onsets)) if melodic else [int(rng.integers(12))] * len(onsets)
    level = 10 ** ((LEVELS[event.loudness] + rng.uniform(-JITTER, JITTER)) / 20)
    for number, ((at, length), pick) in enumerate(zip(onsets, picks, strict=True)):
        begin = bank.loudest_start(row, pick, length) if event.rhythm == "brief" else 0.0
        played = bank.level(row, pick, begin, length)
        gain = level / max(played, bank.level(row, pick, 0.0, LONGEST) / BOOST)
        fades = (FADE if begin else 0.0, FADE)
        if event.rhythm == "lasting":
            fades = (LONGEST - STEP if number else FADE, LONGEST - STEP if number + 1 < len(onsets) else FADE)
        note = bank.notes[row, pick, round(begin * rate) : round((begin + length) * rate)]
        _add(out, note, gain, round(at * rate), (round(fades[0] * rate), round(fades[1] * rate)))


def mix(scene: Scene, bank: Bank, seconds: float, *keys: int | str) -> NDArray[np.float32]:
    """The scene as mono float32 [samples], peak at most 0.98; keys (seed, split, index) choose notes and timing."""
    seed, *rest = keys
    rng = numpy_generator(int(seed), "mix", *rest)
    out = np.zeros(round(seconds * bank.sample_rate), np.float32)
    for event, (start, end) in zip(scene.events, _times(scene, seconds, rng), strict=True):
        _play(out, event, start, end, bank, rng)
    peak = float(np.abs(out).max())
    return out * np.float32(0.98 / peak) if peak > 0.98 else out
