"""Log-mel frames against their formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from prolap.config import DataConfig
from prolap.config.options import ConfigError
from prolap.data.features import FEATURES, FLOOR, MEAN, STD, LogMel, make_features, streamed

CONFIG = DataConfig()
MSCLAP = DataConfig(features="msclap", sample_rate=44_100)
CLAP = DataConfig(features="clap", sample_rate=48_000, hop=480)


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


def test_clap_is_what_transformers_feature_extractor_says() -> None:
    from transformers import ClapFeatureExtractor

    theirs = ClapFeatureExtractor(frequency_min=50, frequency_max=14_000, truncation="rand_trunc", max_length_s=1)
    time = torch.arange(48_000) / 48_000
    wave = 0.1 * torch.randn(48_000, generator=torch.Generator().manual_seed(3)) + torch.sin(2 * math.pi * 440 * time)
    wave[20_000:30_000] = 0
    expected = torch.from_numpy(theirs(wave.numpy(), sampling_rate=48_000)["input_features"][0][0])
    recipe = make_features(CLAP)
    got = recipe(wave)
    assert got.shape == expected.shape == (101, 64)
    assert (expected == -100).any()
    torch.testing.assert_close(got, expected.float(), rtol=1e-4, atol=2e-3)
    assert recipe.window_frames == recipe.frames(480_000) == 1001


def test_msclap_is_a_bank_made_for_32_khz_on_sound_of_44_1_khz() -> None:
    """Frame by frame in numpy, with the bank as transformers' own function makes it."""
    from transformers.audio_utils import mel_filter_bank

    recipe = make_features(MSCLAP)
    bank = mel_filter_bank(513, 64, 50.0, 14_000.0, 32_000, norm="slaney", mel_scale="slaney")
    wave = torch.randn(5000, generator=torch.Generator().manual_seed(4))
    got = recipe(wave)
    assert got.shape == (5000 // 320 + 1, 64)
    padded = np.pad(wave.double().numpy(), 512, mode="reflect")
    for frame in range(len(got)):
        part = padded[frame * 320 : frame * 320 + 1024] * np.hanning(1025)[:-1]
        decibels = 10 * np.log10(np.maximum(np.abs(np.fft.rfft(part)) ** 2 @ bank, 1e-10))
        assert np.allclose(got[frame].numpy(), decibels, atol=2e-3)
    assert recipe.window_frames == recipe.frames(7 * 44_100) == 965
    time = torch.arange(44_100) / 44_100
    peaks = [make_features(MSCLAP)(torch.sin(2 * math.pi * hz * time))[60].argmax().item() for hz in (2000.0, 18_500.0)]
    centres = (bank * np.arange(513)[:, None]).sum(0) / bank.sum(0) * 44_100 / 1024
    assert np.abs(centres[peaks] / [2000.0, 18_500.0] - 1).max() < 0.05


@pytest.mark.parametrize("samples", [1, 319, 320, 512, 513, 44_100])
def test_every_length_gives_finite_decibels(samples: int) -> None:
    recipe = make_features(MSCLAP)
    got = recipe(torch.zeros(samples))
    assert len(got) == recipe.frames(samples) == samples // 320 + 1
    assert (got == -100).all()
    assert recipe(torch.ones(samples)).isfinite().all()


def test_recipes_refuse_options_that_do_not_fit() -> None:
    with pytest.raises(
        ConfigError, match=r"data.features: got msclap with data.sample_rate=16000, want data.sample_rate=44100"
    ):
        make_features(DataConfig(features="msclap"))
    with pytest.raises(
        ConfigError, match=r"data.features: got clap with data.hop=320, data.mels=80, want .* data.hop=480"
    ):
        make_features(DataConfig(features="clap", sample_rate=48_000, mels=80))
    with pytest.raises(ConfigError, match="data.features: got 'mfcc', want one of prolap, msclap, clap"):
        make_features(DataConfig(features="mfcc"))
    assert type(make_features(CONFIG)) is LogMel
    assert {name: make_features(c).name for name, c in zip(FEATURES, (CONFIG, MSCLAP, CLAP), strict=True)} == {
        name: name for name in FEATURES
    }
    with pytest.raises(ValueError, match="waveform"):
        make_features(MSCLAP)(torch.zeros(2, 100))


@pytest.mark.parametrize("recipe", ["prolap", "msclap", "clap"])
def test_a_sound_in_pieces_has_the_log_mel_of_the_whole(recipe: str) -> None:
    options = {"prolap": {}, "msclap": {"sample_rate": 44_100}, "clap": {"sample_rate": 48_000, "hop": 480}}[recipe]
    log_mel = make_features(DataConfig(features=recipe, **options))
    for lengths in ([50_000], [50_000, 7, 40_001, 2_000], [3, 500, 1], [20_000, 20_000, 319]):
        sound = torch.randn(sum(lengths), generator=torch.Generator().manual_seed(0))
        whole, pieces = log_mel(sound), streamed(log_mel, sound.split(lengths))
        assert pieces.shape == whole.shape
        assert torch.allclose(pieces, whole, atol=1e-4)
    assert torch.equal(streamed(log_mel, [sound]), whole)


@pytest.mark.parametrize("name", ["seconds", "eval_seconds"])
def test_less_than_a_frame_cannot_be_heard(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"data\.{name}: got 0\.001, want 0\.02 or more, one frame"):
        make_features(DataConfig(**{name: 0.001}))
    assert make_features(DataConfig(**{name: 0.02}))
