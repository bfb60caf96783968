"""Reading audio files: rates, channels, formats, and errors that name the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from prolap.data.audio import AudioError, info, pad, read


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
