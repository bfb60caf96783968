"""Reading audio files: rates, channels, formats, and errors that name the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from prolap.data import audio
from prolap.data.audio import AudioError, decoded, info, pad, read, stream


def _sine(rate: int, seconds: float = 0.5, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_formats_hold_the_same_sound(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, _sine(16_000), 16_000)
    got = read(path, 16_000)
    assert got.dtype == torch.float32
    error = (got - torch.from_numpy(_sine(16_000)))[200:-200].abs().max()
    assert error < {"wav": 1e-4, "flac": 1e-4, "ogg": 0.05}[suffix]
    assert info(path).seconds == 0.5


@pytest.mark.parametrize("rate", [8000, 22_050, 44_100, 48_000])
def test_resampled_to_the_wanted_rate(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, _sine(rate), rate, subtype="FLOAT")
    got = read(path, 16_000)
    assert abs(got.numel() - 8000) <= 1
    assert (got[500:7500] - torch.from_numpy(_sine(16_000))[500:7500]).abs().max() < 2e-3


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = _sine(16_000), _sine(16_000, hertz=900)
    soundfile.write(tmp_path / "a.wav", np.stack((left, right), 1), 16_000, subtype="FLOAT")
    assert torch.allclose(read(tmp_path / "a.wav", 16_000), torch.from_numpy((left + right) / 2), atol=1e-6)


def test_a_part_of_a_file(tmp_path: Path) -> None:
    wave = _sine(16_000, 1.0)
    soundfile.write(tmp_path / "a.wav", wave, 16_000, subtype="FLOAT")
    assert np.allclose(read(tmp_path / "a.wav", 16_000, 0.25, 0.5), wave[4000:12_000])
    assert read(tmp_path / "a.wav", 16_000, 0.9, 0.5).numel() == 1600
    with pytest.raises(AudioError, match="from second 3"):
        read(tmp_path / "a.wav", 16_000, 3.0)


def test_errors_name_the_file_and_the_reason(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"none\.wav: no such file"):
        read(tmp_path / "none.wav", 16_000)
    (tmp_path / "text.wav").write_text("no sound")
    for reader in (info, lambda path: read(path, 16_000)):
        with pytest.raises(AudioError, match=r"text\.wav: not readable as audio"):
            reader(tmp_path / "text.wav")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0, np.float32), 16_000)
    with pytest.raises(AudioError, match=r"empty\.wav: no samples"):
        read(tmp_path / "empty.wav", 16_000)
    soundfile.write(tmp_path / "nan.wav", np.full(100, np.nan, np.float32), 16_000, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"nan\.wav: .*not finite"):
        read(tmp_path / "nan.wav", 16_000)


def test_pad() -> None:
    wave = torch.arange(10.0)
    assert pad(wave, 12).tolist() == [*wave.tolist(), 0, 0]
    assert pad(wave, 3).tolist() == wave.tolist()


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_a_stream_is_the_whole_sound(tmp_path: Path, rate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "a.wav", _sine(rate, 3.0), rate, subtype="FLOAT")
    whole = read(tmp_path / "a.wav", 16_000)
    (alone,) = stream(tmp_path / "a.wav", 16_000, 10.0)
    assert torch.equal(alone, whole)
    monkeypatch.setattr(audio, "STRETCH", 0.7)
    pieces = list(stream(tmp_path / "a.wav", 16_000, 10.0))
    assert len(pieces) >= 3
    assert torch.cat(pieces).shape == whole.shape
    assert (torch.cat(pieces) - whole).abs().max() < 1e-5
    assert abs(sum(map(len, stream(tmp_path / "a.wav", 16_000, 1.5))) - 24_000) <= 1
    with pytest.raises(AudioError, match="no such file"):
        list(stream(tmp_path / "none.wav", 16_000, 1.0))


def test_a_header_that_promises_days_takes_no_memory(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", _sine(16_000), 16_000)
    content = bytearray((tmp_path / "a.flac").read_bytes())
    content[21] |= 0x0F  # the 36 bits of the number of samples
    content[22:26] = b"\xff" * 4
    (tmp_path / "a.flac").write_bytes(content)
    assert info(tmp_path / "a.flac").samples == 2**36 - 1
    assert read(tmp_path / "a.flac", 16_000, 0.0, 0.25).numel() == 4000
    for reader in (lambda path: read(path, 16_000), lambda path: list(decoded(path))):
        with pytest.raises(AudioError, match=r"a\.flac"):
            reader(tmp_path / "a.flac")


@pytest.mark.parametrize("kind", ["wav", "aiff", "flac", "mp3", "ogg", "opus"])
def test_half_a_file_and_holes_are_noticed(tmp_path: Path, kind: str) -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal(5 * 48_000).clip(-3, 3)
    path = tmp_path / f"a.{kind}"
    options = {"opus": {"format": "OGG", "subtype": "OPUS"}, "mp3": {"format": "MP3"}}.get(kind, {})
    soundfile.write(path, noise, 48_000, **options)
    assert sum(map(len, decoded(path))) == pytest.approx(len(noise), rel=0.01)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AudioError, match=r"promises|damaged or cut short|not readable"):
        list(decoded(path))
    if kind in ("wav", "aiff"):  # nothing in them says what a sample has to be
        assert sum(map(len, decoded_until_error(path))) == pytest.approx(len(noise) / 2, rel=0.01)
        return
    path.write_bytes(whole[: len(whole) // 3] + bytes(len(whole) // 4) + whole[len(whole) // 3 + len(whole) // 4 :])
    with pytest.raises(AudioError, match=r"promises|damaged or cut short|not readable"):
        list(decoded(path))


def decoded_until_error(path: Path) -> list[np.ndarray]:
    pieces = []
    with pytest.raises(AudioError, match=r"holds \d[\d,]* of the 2[34]\d,\d{3} samples that it promises"):
        for piece in decoded(path):
            pieces.append(piece)
    return pieces


def test_a_size_left_open_is_no_promise(tmp_path: Path) -> None:
    """Programs that write to a pipe cannot go back to fill in the size."""
    soundfile.write(tmp_path / "a.wav", _sine(16_000), 16_000)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    for place in (4, content.index(b"data") + 4):
        content[place : place + 4] = b"\xff" * 4
    (tmp_path / "a.wav").write_bytes(content)
    assert sum(map(len, decoded(tmp_path / "a.wav"))) == 8000
