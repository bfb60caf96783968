"""Augmentation, windows of evaluation, and kept log-mels."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from prolap.config import AugmentConfig, BaseConfig, DataConfig
from prolap.config.options import ConfigError
from prolap.data import audio
from prolap.data.augment import Augment
from prolap.data.cache import LogMelCache
from prolap.data.loader import Loader
from prolap.data.scenes.clips import SceneData
from prolap.models.tokenizers import WordVocabulary
from tests.prolap.data.files.test_layouts import QUIET, RATE, write
from tests.prolap.data.files.test_recordings import opened

ALL = AugmentConfig(gain_db=6.0, noise_db=20.0, shift=0.3, time_masks=2, time_width=6, band_masks=1, band_width=8)


@pytest.fixture
def manifest(tmp_path: Path) -> str:
    for i in range(6):
        write(tmp_path / f"{i}.wav", i, 0.5 + 0.2 * i)
    lines = ["audio,caption", *(f"{i}.wav,sound {i}" for i in range(6))]
    (tmp_path / "m.csv").write_text("\n".join(lines))
    return str(tmp_path / "m.csv")


def db(ratio: torch.Tensor) -> float:
    return float(20 * ratio.log10())


def test_gain_and_shift() -> None:
    wave = torch.linspace(0.01, 1, 1000)
    gains = set()
    for i in range(20):
        out = Augment(AugmentConfig(gain_db=6.0), 1).wave(wave, 0, i)
        change = db(out[0] / wave[0])
        assert torch.allclose(out / wave, out[:1] / wave[:1], rtol=1e-6)
        assert abs(change) <= 6.0 + 1e-5
        gains.add(round(change, 3))
    assert len(gains) == 20
    assert min(gains) < -2 < 2 < max(gains)
    rolled = Augment(AugmentConfig(shift=0.1), 1).wave(wave, 0, 3)
    assert torch.equal(rolled.sort().values, wave)
    places = [int(Augment(AugmentConfig(shift=0.1), 1).wave(wave, 0, i).argmin()) for i in range(30)]
    assert len(set(places)) > 20
    assert all(place <= 100 or place >= 900 for place in places)


def test_noise_lies_so_far_below_the_sound_for_half_of_the_clips() -> None:
    wave = torch.sin(torch.arange(16_000) * 0.3)
    augment = Augment(AugmentConfig(noise_db=30.0), 1)
    noises = [augment.wave(wave, 0, i) - wave for i in range(200)]
    noisy = [noise for noise in noises if noise.any()]
    assert 70 <= len(noisy) <= 130  # binomial, four standard deviations
    for noise in noisy[:10]:
        assert abs(db(wave.norm() / noise.norm()) - 30.0) < 0.01
    assert not augment.wave(torch.zeros(100), 0, 0).any()


def test_specaugment_masks_bands_and_stretches_with_the_quietest_value() -> None:
    mel = torch.randn(50, 64)
    config = AugmentConfig(time_masks=1, time_width=10)
    widths = set()
    for i in range(60):
        out = Augment(config, 2).mel(mel, 0, i)
        hidden = (out == mel.min()).all(1)
        assert torch.equal(out[~hidden], mel[~hidden])
        widths.add(int(hidden.sum()))
        where = hidden.nonzero().flatten()
        assert len(where) == 0 or where[-1] - where[0] + 1 == len(where)
    assert widths == set(range(11))
    out = Augment(AugmentConfig(band_masks=1, band_width=8), 2).mel(mel, 0, 5)
    changed = (out != mel).any(0)
    assert 0 < changed.sum() <= 8
    short = Augment(AugmentConfig(time_masks=1, time_width=100), 2)
    assert all((short.mel(mel[:3], 0, i) != mel.min()).any() for i in range(30))


def test_draws_depend_on_seed_epoch_and_clip_alone() -> None:
    wave, mel = torch.randn(1000), torch.randn(50, 64)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = Augment(ALL, 1).wave(wave, 2, 3), Augment(ALL, 1).mel(mel, 2, 3)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(1)
    assert torch.equal(Augment(ALL, 1).wave(wave, 2, 3), first[0])
    assert torch.equal(Augment(ALL, 1).mel(mel, 2, 3), first[1])
    for seed, epoch, i in ((2, 2, 3), (1, 3, 3), (1, 2, 4)):
        assert not torch.equal(Augment(ALL, seed).wave(wave, epoch, i), first[0])
        assert not torch.equal(Augment(ALL, seed).mel(mel, epoch, i), first[1])


def test_only_training_is_augmented(manifest: str) -> None:
    config = DataConfig(seconds=0.4, augment=ALL)
    plain = opened(manifest, replace(config, augment=AugmentConfig()))
    train, dev = (opened(manifest, config, split) for split in ("train", "dev"))
    assert torch.equal(train.features(3), plain.features(3))
    assert torch.equal(dev.features_batch([3], 1)[0], plain.features_batch([3])[0])
    assert not torch.equal(train.features_batch([3], 1)[0], plain.features_batch([3], 1)[0])


@pytest.mark.parametrize("kept", [False, True])
def test_workers_change_nothing(manifest: str, tmp_path: Path, kept: bool) -> None:
    augment = replace(ALL, gain_db=0, noise_db=0, shift=0) if kept else ALL
    data = DataConfig(seconds=0.4, augment=augment, cache_features=kept, cache=str(tmp_path / "cache"))
    batches = []
    for workers in (0, 1):
        config = BaseConfig(batch_size=3, workers=workers, data=data)
        source = opened(manifest, data)
        loader = Loader(source, WordVocabulary.build(["sound"]), config)
        stream = loader.batches()
        batches.append([next(stream) for _ in range(3)])
        late = loader.batches(2)
        assert torch.equal(next(late).audio, batches[-1][2].audio)  # as after an interruption
        del stream, late
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one.audio, other.audio)
        assert torch.equal(one.index, other.index)


def test_evaluation_hears_a_window_of_its_own(manifest: str) -> None:
    config = DataConfig(seconds=0.4, eval_seconds=1.0)
    data = opened(manifest, config, "test")
    whole = audio.read(Path(manifest).parent / "5.wav", RATE)
    assert torch.equal(data.waveform(5), whole[:16_000])
    assert [data.frames(i) for i in range(6)] == [25, 35, 45, 50, 50, 50] == [len(data.features(i)) for i in range(6)]
    mels, frames = data.features_batch([0, 2])
    assert mels.shape[1] == 45  # the longest of the batch
    assert frames.tolist() == [25, 45]
    assert torch.equal(mels[0, :25], data.features(0))
    train = opened(manifest, config)
    assert train.features_batch([0, 1], 0)[0].shape[1] == 20
    assert torch.equal(train.features(5), data.features(5))
    short = replace(config, seconds=5.0)  # training pads to its own length, evaluation does not
    assert opened(manifest, short).features_batch([0], 0)[0].shape[1] == 250


def test_kept_log_mels_are_the_log_mels(manifest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = DataConfig(seconds=0.4, eval_seconds=5.0, cache_features=True, cache=str(tmp_path / "cache"))
    plain = opened(manifest, replace(config, cache_features=False))
    kept = opened(manifest, config)
    for i in range(6):
        error = (kept.features(i) - plain.features(i)).abs()
        assert (error <= plain.features(i).abs() * 2**-11 + 2**-24).all()  # float16
        assert kept.frames(i) == plain.frames(i)
    whole = kept.features(5)
    crops = [kept.features_batch([5], epoch)[0][0] for epoch in range(8)]
    starts = [int((whole.unfold(0, 20, 1) == crop.T).all((1, 2)).nonzero()[0]) for crop in crops]
    assert len(set(starts)) > 4
    assert torch.equal(kept.features_batch([5], 3)[0][0], crops[3])
    monkeypatch.setattr(audio, "read", lambda *a, **k: pytest.fail("a sound was decoded"))
    assert torch.equal(kept.features(5), whole)


def test_damaged_and_outdated_log_mels_are_made_again(
    manifest: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = DataConfig(cache_features=True, cache=str(tmp_path / "cache"))
    data, folder = opened(manifest, config), Path(manifest).parent
    wanted = data.features(2)
    path = LogMelCache(config).path(folder / "2.wav")
    content = bytearray(path.read_bytes())
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    for damaged in (content[: len(content) // 2], b"", b"nothing", flipped):
        path.write_bytes(damaged)
        with caplog.at_level(logging.WARNING):
            assert torch.equal(data.features(2), wanted)
        assert "is damaged" in caplog.text
        caplog.clear()
        assert path.read_bytes() == content
    write(folder / "2.wav", 99, 0.9)
    assert not torch.equal(data.features(2), wanted)
    assert LogMelCache(replace(config, mels=32)).path(folder / "2.wav") != LogMelCache(config).path(folder / "2.wav")
    (folder / "2.wav").unlink()
    with pytest.raises(audio.AudioError, match=r"2\.wav"):
        data.features(2)


def test_kept_log_mels_refuse_augmented_waveforms(manifest: str) -> None:
    config = DataConfig(cache_features=True, augment=AugmentConfig(shift=0.1))
    with pytest.raises(ConfigError, match=r"data\.cache_features: got true, want false"):
        opened(manifest, config)


def test_scenes_are_augmented_as_log_mels_alone(scene_cache: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.augment"):
        SceneData(DataConfig(clips=8, augment=ALL), "train")
    config = DataConfig(clips=8, cache=scene_cache, augment=AugmentConfig(time_masks=1, time_width=20))
    data = SceneData(config, "train", **QUIET)
    changed = [(data.features_batch([i], 1)[0][0] != data.features(i)).any().item() for i in range(8)]
    assert sum(changed) >= 5
    assert torch.equal(data.features_batch([3, 2], 1)[0][0], data.features_batch([3], 1)[0][0])
    assert torch.equal(data.features_batch([3])[0][0], data.features(3))
