"""Log-mel frames against their formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from prolap.config import DataConfig
from prolap.data.features import FLOOR, MEAN, STD, LogMel

CONFIG = DataConfig()


def test_equals_the_formula_frame_by_frame() -> None:
    wave = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    mel = LogMel(CONFIG)
    got = mel(wave).double()
    assert got.shape == (4000 // CONFIG.hop, CONFIG.mels)
    hann = np.hanning(CONFIG.window + 1)[:-1]
    padded = np.pad(wave.double().numpy(), (512, 2048))
    for frame in range(len(got)):
        part = padded[frame * CONFIG.hop : frame * CONFIG.hop + CONFIG.window] * hann / (hann.sum() / 2)
        power = np.abs(np.fft.rfft(part)) ** 2 @ mel.bank.double().numpy()
        assert np.allclose(got[frame].numpy(), (np.log(power + FLOOR) - MEAN) / STD, atol=1e-4)


def test_a_louder_sound_is_shifted_by_its_decibels() -> None:
    wave = 0.01 * torch.randn(8000, generator=torch.Generator().manual_seed(1))
    mel = LogMel(CONFIG)
    difference = mel(wave * 10)[3:-3] - mel(wave)[3:-3]
    assert difference.mean().item() == pytest.approx(math.log(100) / STD, rel=0.01)


def test_a_sine_shows_in_its_band_only() -> None:
    mel = LogMel(CONFIG)
    time = torch.arange(16_000) / CONFIG.sample_rate
    for hertz in (200.0, 1000.0, 5000.0):
        frame = mel(torch.sin(2 * math.pi * hertz * time))[25]
        bin_ = round(hertz * CONFIG.window / CONFIG.sample_rate)
        assert mel.bank[bin_, frame.argmax()] > 0
        assert frame.max() - frame.median() > 2


def test_full_scale_does_not_depend_on_the_window() -> None:
    time = torch.arange(16_000) / CONFIG.sample_rate
    wave = torch.sin(2 * math.pi * 1000 * time)
    peaks = [LogMel(DataConfig(window=window))(wave)[20].max().item() for window in (512, 1024)]
    assert abs(peaks[0] - peaks[1]) * STD < 1.0  # nats: a band is wider in bins, not louder by the window's length


@pytest.mark.parametrize("samples", [1, 319, 320, 1023, 51_200])
def test_every_length_gives_finite_frames(samples: int) -> None:
    got = LogMel(CONFIG)(torch.zeros(samples))
    assert len(got) == LogMel(CONFIG).frames(samples) == max(1, samples // 320)
    assert torch.allclose(got, torch.full_like(got, (math.log(FLOOR) - MEAN) / STD))


@pytest.mark.parametrize("shape", [(0,), (2, 100)])
def test_what_is_no_waveform_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="waveform"):
        LogMel(CONFIG)(torch.zeros(shape))


def test_threads_do_not_change_the_bits() -> None:
    """Else the stream would depend on workers, which compute with one thread each."""
    mel, threads = LogMel(CONFIG), torch.get_num_threads()
    wave = torch.randn(51_200, generator=torch.Generator().manual_seed(2))
    try:
        got = []
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            got.append(mel(wave))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(got[0], got[1])
    assert torch.equal(got[0], got[2])
