"""Mixtures are sums of waveforms with joined captions, a function of (seed, step) and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prolap.config import AugmentConfig, MixConfig
from prolap.config.options import ConfigError
from prolap.data import AudioTextData, open_data
from prolap.data.batch import Batch, Mixtures
from prolap.data.files.recordings import RecordingData
from prolap.data.loader import Loader
from prolap.data.mixing import WORDS, draw, join_captions, mix_waveforms
from prolap.data.union import WeightedUnion
from prolap.training.config import Config, load_config
from prolap.training.terms import InclusionConfig, loss_config
from prolap.utils.seeding import numpy_generator
from tests.prolap.data.test_loader import texts, tokens
from tests.prolap.tiny import tiny_config


@pytest.fixture(scope="module")
def config(data: Path) -> Config:
    return tiny_config(data, Path("unused"), preset="mixprolap+tiny", batch_size=4, optim__chunk=0)


@pytest.fixture(scope="module")
def clips(config: Config) -> RecordingData:
    found = open_data(config, "train", progress=lambda *_: None)
    assert isinstance(found, RecordingData)
    return found


def take(loader: Loader, start: int, count: int) -> list[Batch]:
    return list(islice(loader.batches(start), count))


def mixed(batch: Batch) -> Mixtures:
    assert batch.mixtures is not None
    return batch.mixtures


def parts(batch: Batch) -> list[Tensor]:
    own = [getattr(batch, each.name) for each in fields(Batch)[:-1]]
    return own + [getattr(mixed(batch), each.name) for each in fields(Mixtures)]


def same(one: Batch, two: Batch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(parts(one), parts(two), strict=True))


def words_of(mixtures: Mixtures) -> list[str]:
    return ["".join(chr(letter) for letter in row if letter) for row in mixtures.tokens.tolist()]


def test_a_mixture_is_the_weighted_sum_of_two_waveforms(clips: RecordingData, config: Config) -> None:
    for step, batch in enumerate(take(Loader(clips, tokens, config, mixes=True), 0, 4)):
        mixtures, epoch = mixed(batch), step // 3
        assert mixtures.audio.shape == (3, 2, *batch.audio.shape[1:])
        for row, partner in enumerate(mixtures.partner.tolist()):
            own, other = (clips.waveform(int(batch.index[k]), epoch).double() for k in (row, partner))
            for level in range(3):
                alpha = mixtures.alpha[level, row].double()
                expected = clips.log_mel(alpha * own + (1 - alpha) * other)
                assert mixtures.frames[row] == len(expected) == batch.frames[row]
                # float32 rounds a sum of 0.3 by 2e-8; beside the floor of 1e-9 of power, 3e-5 of amplitude, the logarithm moves
                # by 2 * 2e-8 / 3e-5 = 1e-3, over the standard deviation of 3.5
                found = mixtures.audio[level, row, : len(expected)]
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_levels_go_from_the_purest_to_the_most_even(clips: RecordingData, config: Config) -> None:
    closeness = []
    for batch in take(Loader(clips, tokens, config, mixes=True), 0, 6):
        mixtures = mixed(batch)
        assert ((mixtures.alpha >= 0.5) & (mixtures.alpha <= 1)).all()
        assert (mixtures.alpha.diff(dim=0) < 0).all()
        closeness.append((mixtures.audio - batch.audio[:2]).abs().mean(dim=(2, 3)))
    assert (torch.cat(closeness, dim=1).diff(dim=0) > 0).all()  # ever farther from the clip itself


def test_captions_are_joined(clips: RecordingData, config: Config) -> None:
    seen = set()
    for batch in take(Loader(clips, tokens, config, mixes=True), 0, 9):
        mixtures, captions = mixed(batch), texts(batch)
        for row, (text, partner) in enumerate(zip(words_of(mixtures), mixtures.partner.tolist(), strict=True)):
            first, second = captions[row], captions[partner]
            assert text in {f"{first} {word} {second}" for word in WORDS}
            assert mixtures.joined[row] == (first != second)
            seen.add(text.removeprefix(first).removesuffix(second).strip())
    assert seen == set(WORDS)


@pytest.mark.parametrize(
    ("first", "second", "word", "joined"),
    [
        ("A dog barks.", "A cat mews.", "and", "A dog barks and a cat mews."),
        ("rain", "wind, far away", "while", "rain while wind, far away"),
        ("Stop!? ", " TV noise", "and", "Stop and TV noise"),
        ("", "A bell.", "and", "A bell."),
        ("A bell.", " ", "and", "A bell."),
        ("...", "A bell.", "and", "..."),
    ],
)
def test_joined_captions_by_hand(first: str, second: str, word: str, joined: str) -> None:
    assert join_captions(first, second, word) == joined


def test_waveforms_of_different_length() -> None:
    long, short = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([8.0])
    assert mix_waveforms(long, short, 0.75).tolist() == [2.75, 1.5, 3.0]
    assert mix_waveforms(short, long, 0.75).tolist() == [6.25, 0.5, 1.0]
    assert torch.equal(mix_waveforms(long, short, 1.0), long)


def test_workers_and_the_place_of_starting_do_not_change_the_stream(clips: RecordingData, config: Config) -> None:
    here = take(Loader(clips, tokens, config, mixes=True), 0, 5)
    there = take(Loader(clips, tokens, replace(config, workers=2), mixes=True), 2, 3)
    assert all(same(one, two) for one, two in zip(here[2:], there, strict=True))
    other = Loader(clips, tokens, replace(config, seed=9), mixes=True).batch(0)
    assert not torch.equal(mixed(other).alpha, mixed(here[0]).alpha)
    assert not torch.equal(mixed(here[1]).alpha, mixed(here[0]).alpha)
    once = Loader(clips, tokens, replace(config, overfit=5), mixes=True)
    assert same(once.batch(0), once.batch(7))


def test_who_is_mixed(config: Config) -> None:
    clips = np.array([7, 7, 3, 3, 3, 9, 1, 2])
    partners = np.zeros(8, int)
    alpha = []
    for step in range(300):
        plan = draw(clips, MixConfig(share=0.5), numpy_generator(0, "test", step))
        assert len(plan.partner) == len(plan.words) == 4
        assert (clips[plan.partner] != clips[:4]).all()
        partners += np.bincount(plan.partner, minlength=8)
        alpha.append(plan.alpha)
    assert (partners > 60).all()  # every row of the batch serves, those that are not mixed too
    means = np.stack(alpha).mean(axis=(0, 2))
    np.testing.assert_allclose(means, [0.875, 0.75, 0.625], atol=0.02)  # three sorted draws from U(0.5, 1)
    assert len(draw(clips, MixConfig(share=0.01), numpy_generator(0)).partner) == 1
    assert draw(clips, MixConfig(share=1, levels=2), numpy_generator(0)).alpha.shape == (2, 8)
    with pytest.raises(ValueError, match="all 3 rows of the batch are clip 5"):
        draw([5, 5, 5], MixConfig(share=0.5), numpy_generator(0))


def test_mixtures_hear_what_their_rows_hear(clips: RecordingData, config: Config) -> None:
    louder = replace(config, data=replace(config.data, augment=AugmentConfig(gain_db=12.0)))
    found = open_data(louder, "train", progress=lambda *_: None)
    batch = Loader(found, tokens, replace(louder, mix=replace(louder.mix, alpha=(1.0, 1.0))), mixes=True).batch(1)
    assert torch.equal(mixed(batch).audio[2], batch.audio[:2])  # all of it the clip itself
    assert not torch.allclose(batch.audio, Loader(clips, tokens, config, mixes=True).batch(1).audio)


def test_scenes_and_weighted_mixtures_can_be_mixed(
    clips: RecordingData, config: Config, scene_cache: str, data: Path
) -> None:
    options = replace(config.data, train="scenes", clips=6, cache=scene_cache)
    scenes = open_data(replace(config, data=options), "train", progress=lambda *_: None)
    for both in (scenes, WeightedUnion([scenes, clips], [1.0, 2.0])):
        batch = Loader(both, tokens, replace(config, data=options), mixes=True).batch(0)
        assert mixed(batch).audio.isfinite().all()
        assert (mixed(batch).frames > 0).all()


def test_runs_that_look_at_no_mixtures_make_none(clips: RecordingData, config: Config) -> None:
    for changed in (replace(config, loss=loss_config()), replace(config, mix=MixConfig(share=0))):
        assert not changed.mixes
        assert Loader(clips, tokens, changed, changed.mixes).batch(0).mixtures is None
    assert replace(config, loss=loss_config(cross_inclusion=InclusionConfig(weight=1e-7))).mixes


def test_a_batch_moves_with_its_mixtures(clips: RecordingData, config: Config) -> None:
    batch = Loader(clips, tokens, config, mixes=True).batch(0)
    assert all(part.device.type == "meta" for part in parts(batch.to("meta")))
    assert replace(batch, mixtures=None).to("meta").mixtures is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: replace(c, batch_size=1), "batch_size: got 1 with mix.share 0.5, want at least 2"),
        (lambda c: replace(c, overfit=1), "overfit: got 1"),
        (
            lambda c: replace(c, data=replace(c.data, cache_features=True)),
            "data.cache_features: got true with mix.share",
        ),
    ],
)
def test_what_does_not_go_with_mixtures(
    clips: RecordingData, config: Config, change: Callable[[Config], Config], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Loader(clips, tokens, change(config), mixes=True)


class Silent:
    """A data set that has log-mels only."""

    name = "silent"

    def __init__(self, data: AudioTextData) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getattr__(self, name: str) -> Any:
        if name in ("heard", "log_mel"):
            raise AttributeError(name)
        return getattr(self.data, name)


def test_a_data_set_without_waveforms_is_refused(clips: RecordingData, config: Config) -> None:
    silent = Silent(clips)
    for found in (silent, WeightedUnion([clips, silent], [1.0, 1.0])):
        with pytest.raises(ConfigError, match=r"mix.share: got 0.5, want 0, since silent has no waveforms"):
            Loader(found, tokens, config, mixes=True)


def test_the_preset_is_as_published() -> None:
    config = load_config("mixprolap")
    assert (config.batch_size, config.epochs) == (2048, 30)
    assert (config.mix.share, config.mix.levels, config.mix.alpha) == (0.5, 3, (0.5, 1.0))
    loss, optim = config.loss, config.optim
    assert (config.model.score, loss.pairs.objective) == ("csd", "sigmoid")
    assert (loss.cross_inclusion.weight, loss.hierarchy.weight, loss.vib.weight) == (5e-7, 5e-3, 1e-5)
    assert loss.repulsion.weight == loss.masked_pairs.weight == 0
    assert (optim.optimizer, optim.betas, optim.weight_decay) == ("adamw", (0.9, 0.999), 0.01)
    assert (optim.lr, optim.warmup_epochs, config.model.logvar_init) == (1e-5, 5, -10)
    assert config.mixes
