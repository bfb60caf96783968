"""The note bank: what it holds, and a cache that is whole or rendered again."""

from __future__ import annotations

import logging
from pathlib import Path

import mido
import numpy as np
import pytest

from prolap.config import DataConfig
from prolap.data.scenes import soundfont
from prolap.data.scenes.sources import BY_KEY, DOMAINS, FAMILIES, NOTES, SOURCES
from prolap.utils.files import atomic
from prolap.utils.progress import Progress


@pytest.fixture(scope="module")
def bank(scene_cache: str) -> soundfont.Bank:
    return soundfont.load_bank(DataConfig(cache=scene_cache))


def test_no_source_is_silent_and_every_note_has_its_level(bank: soundfont.Bank) -> None:
    assert not bank.silent
    assert bank.notes.shape == (len(SOURCES), NOTES, 32_000)
    peaks = np.abs(bank.notes.astype(np.int32)).max(axis=2) / 32767
    assert np.allclose(peaks, 0.98, atol=1e-3)
    note = bank.notes[3, 5].astype(np.float64) / 32767
    loudest = max(np.sqrt((note[k : k + 4000] ** 2).mean()) for k in range(0, 28_000, 50))
    assert bank.level(3, 5, 0.0, 2.0) == pytest.approx(loudest, rel=0.02)
    first = np.sqrt((note[1600:3200] ** 2).mean())
    assert bank.level(3, 5, 0.1, 0.1) == pytest.approx(first, rel=0.02)
    assert min(bank.level(row, 0, 0.0, 2.0) for row in range(len(SOURCES))) > 0.03


def test_the_loudest_part_is_found(bank: soundfont.Bank) -> None:
    row = [each.key for each in SOURCES].index("bird")
    start = bank.loudest_start(row, 0, 0.4)
    note = bank.notes[row, 0].astype(np.float64)
    energies = [(note[k * 400 : k * 400 + 6400] ** 2).sum() for k in range(64)]
    assert round(start / 0.025) == int(np.argmax(energies))


def _strongest(note: np.ndarray) -> float:
    """Frequency in Hz of the highest spectral peak in the middle of the note."""
    part = note[4000:12_000] * np.hanning(8000)
    return float(np.argmax(np.abs(np.fft.rfft(part, 65_536))) * 16_000 / 65_536)


@pytest.mark.parametrize("source", ["cello", "flute", "clarinet"])
def test_notes_have_the_pitch_that_the_table_says(bank: soundfont.Bank, source: str) -> None:
    row = [each.key for each in SOURCES].index(source)
    for note, (number, _) in zip(bank.notes[row], BY_KEY[source].notes(), strict=True):
        want = 440 * 2 ** ((number - 69) / 12)
        harmonic = _strongest(note) / want
        assert harmonic == pytest.approx(round(harmonic), rel=0.02)
        assert 1 <= round(harmonic) <= 3


def test_every_source_differs_from_every_other(bank: soundfont.Bank) -> None:
    spectra = np.abs(np.fft.rfft(bank.notes[:, 0, :16_000].astype(np.float32), axis=1))
    spectra /= np.linalg.norm(spectra, axis=1, keepdims=True)
    alike = spectra @ spectra.T - np.eye(len(SOURCES))
    assert alike.max() < 0.97


def test_the_taxonomy_is_whole() -> None:
    assert {source.family for source in SOURCES} == set(FAMILIES)
    assert set(FAMILIES.values()) == set(DOMAINS)
    assert len(BY_KEY) == len(SOURCES)
    assert sum(DOMAINS.values()) == pytest.approx(1.0)
    for source in SOURCES:
        assert len(source.notes()) == NOTES
        assert all(0 <= pitch <= 127 and 0 < velocity <= 127 for pitch, velocity in source.notes())
    assert 78 not in {source.program for source in SOURCES}  # the whistle, silent in the default soundfont


def test_midi_file_reads_back(tmp_path: Path) -> None:
    (tmp_path / "a.mid").write_bytes(soundfont.single_notes(42, [(60, 100), (64, 90)], slot=2000, hold=1500))
    file = mido.MidiFile(tmp_path / "a.mid")
    time, seen = 0.0, []
    for message in file:
        time += message.time
        if message.type in ("note_on", "note_off"):
            seen.append((message.type, message.note, round(time, 3)))
    assert [m.program for m in file.tracks[0] if m.type == "program_change"] == [42]
    assert seen == [
        ("note_on", 60, 0.002),
        ("note_off", 60, 1.5),
        ("note_on", 64, 2.002),
        ("note_off", 64, 3.5),
    ]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rendering replaced by something quick; the list counts the renderings."""
    calls: list[int] = []

    def render(font: bytes, rate: int, progress: Progress) -> tuple[np.ndarray, np.ndarray]:
        calls.append(rate)
        progress("rendering notes", 1, 1)
        rng = np.random.default_rng(0)
        notes = rng.integers(-32_000, 32_000, (len(SOURCES), NOTES, 50)).astype(np.int16)
        return notes, np.full((len(SOURCES), NOTES, 80), 0.1, np.float32)

    monkeypatch.setattr(soundfont, "render", render)
    return calls


def test_a_second_load_reads_the_cache(tmp_path: Path, small: list[int]) -> None:
    config = DataConfig(cache=str(tmp_path))
    told: list[tuple[str, int, int]] = []
    one = soundfont.load_bank(config, lambda *step: told.append(step))
    two = soundfont.load_bank(config)
    assert len(small) == 1
    assert told == [("rendering notes", 1, 1)]
    assert np.array_equal(one.notes, two.notes)
    assert one.checksum == two.checksum
    soundfont.load_bank(DataConfig(cache=str(tmp_path), sample_rate=8000))
    assert small == [16_000, 8000]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "swap"])
def test_a_damaged_cache_is_rendered_again(
    tmp_path: Path, small: list[int], caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    config = DataConfig(cache=str(tmp_path))
    good = soundfont.load_bank(config)
    (path,) = tmp_path.glob("notes-*.npz")
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[5000] ^= 1
    path.write_bytes({"cut": content[:1000], "empty": b""}.get(damage, content))
    if damage == "swap":  # a well-formed file whose contents changed
        with np.load(path) as file:
            arrays = dict(file)
        arrays["notes"][0, 0, 0] ^= 1
        np.savez(path, **arrays)
    with caplog.at_level(logging.WARNING):
        again = soundfont.load_bank(config)
    assert len(small) == 2
    assert "made again" in caplog.text
    assert np.array_equal(again.notes, good.notes)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]  # nothing half-written is left


def test_nothing_is_left_when_writing_is_interrupted(tmp_path: Path) -> None:
    target = tmp_path / "a.npz"
    target.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), atomic(target) as file:
        file.write(b"half of the new")
        raise KeyboardInterrupt
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("content", [None, b"not a soundfont at all"])
def test_a_bad_soundfont_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "mine.sf2"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises((FileNotFoundError, ValueError), match=r"data\.soundfont.*mine\.sf2"):
        soundfont.load_bank(DataConfig(cache=str(tmp_path), soundfont=str(path)))


def test_silent_sources_are_left_out_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def render(font: bytes, rate: int, progress: Progress) -> tuple[np.ndarray, np.ndarray]:
        energy = np.full((len(SOURCES), NOTES, 80), 0.1, np.float32)
        energy[keep:] = 0
        return np.zeros((len(SOURCES), NOTES, 50), np.int16), energy

    monkeypatch.setattr(soundfont, "render", render)
    keep = len(SOURCES) - 1
    assert soundfont.load_bank(DataConfig(cache=str(tmp_path))).silent == {SOURCES[-1].key}
    assert SOURCES[-1].key in caplog.text
    keep = 19
    with pytest.raises(ValueError, match="only 19"):
        soundfont.load_bank(DataConfig(cache=str(tmp_path), sample_rate=8000))
