"""From a planned scene to its sound."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prolap.data.scene_plan import Event, Scene
from prolap.data.soundfont import Bank
from prolap.data.sources import BY_KEY, SOURCES
from prolap.seeding import numpy_generator

VERSION = 1  # raise it when the same plan sounds different
LEVELS = {"soft": -45.0, "": -35.0, "loud": -25.0}  # dB of full scale, RMS of a note's loudest quarter second
JITTER = 1.5  # dB
PAUSE = {"slow": (0.45, 0.6), "fast": (0.13, 0.18)}  # seconds between two onsets
BRIEF = (0.35, 0.5)  # seconds
FADE = 0.01  # seconds
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
        step = 1.7  # the two-second recordings overlap by their fades
        return [(t, min(2.0, end - t)) for t in np.arange(start, end - 0.3, step).tolist()]
    if event.rhythm == "brief":
        return [(start, float(rng.uniform(*BRIEF)))]
    if event.rhythm == "single":
        return [(start, min(2.0, end - start))]
    pause = float(rng.uniform(*PAUSE[event.rhythm]))
    length = pause if BY_KEY[event.source].style == "melodic" else 2.5 * pause
    return [(t, min(length, end - t)) for t in np.arange(start, end - 0.1, pause).tolist()]


def _add(out: NDArray[np.float32], note: NDArray[np.int16], gain: float, at: int, fade: int) -> None:
    """Add a note from sample `at` on, faded out at its end."""
    size = min(note.size, out.size - at)
    if size <= 0:
        return
    sound = note[:size] * np.float32(gain / 32767)
    ramp = min(fade, size)
    sound[size - ramp :] *= np.linspace(1.0, 0.0, ramp, dtype=np.float32)
    out[at : at + size] += sound


def mix(scene: Scene, bank: Bank, seconds: float, *keys: int | str) -> NDArray[np.float32]:
    """The scene as mono float32 [samples], peak at most 0.98; keys (seed, split, index) choose notes and timing."""
    seed, *rest = keys
    rng = numpy_generator(int(seed), "mix", *rest)
    rate = bank.sample_rate
    out = np.zeros(round(seconds * rate), np.float32)
    for event, (start, end) in zip(scene.events, _times(scene, seconds, rng), strict=True):
        row = ROWS[event.source]
        onsets = _onsets(event, start, end, rng)
        melodic = BY_KEY[event.source].style == "melodic"
        picks = _walk(rng, event.register, len(onsets)) if melodic else [int(rng.integers(12))] * len(onsets)
        level = 10 ** ((LEVELS[event.loudness] + rng.uniform(-JITTER, JITTER)) / 20)
        fade = 0.3 if event.rhythm == "lasting" else FADE
        for (at, length), pick in zip(onsets, picks, strict=True):
            note = bank.notes[row, pick, : round(length * rate)]
            _add(out, note, level / float(bank.levels[row, pick]), round(at * rate), round(fade * rate))
    peak = float(np.abs(out).max())
    return out * np.float32(0.98 / peak) if peak > 0.98 else out
