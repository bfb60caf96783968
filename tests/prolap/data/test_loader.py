"""The stream of batches: a function of (seed, step) and nothing else."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prolap.config import BaseConfig, DataConfig
from prolap.data import AudioTextData, open_data
from prolap.data.batch import Batch
from prolap.data.dataset import Caption
from prolap.data.loader import Loader, draw_caption


def tokens(texts: list[str]) -> Tensor:
    """Letters as numbers, padded with 0."""
    width = max(map(len, texts))
    return torch.tensor([[ord(letter) for letter in text] + [0] * (width - len(text)) for text in texts])


def texts(batch: Batch) -> list[str]:
    return ["".join(chr(letter) for letter in row if letter) for row in batch.tokens.tolist()]


@pytest.fixture(scope="module")
def config(scene_cache: str) -> BaseConfig:
    data = DataConfig(cache=scene_cache, clips=70, dev_clips=5, test_clips=5)
    return BaseConfig(batch_size=16, seed=3, data=data)


@pytest.fixture(scope="module")
def data(config: BaseConfig) -> AudioTextData:
    return open_data(config, "train", progress=lambda *_: None)


def same(one: Batch, two: Batch) -> bool:
    assert one.mixtures is two.mixtures is None
    return all(torch.equal(getattr(one, each.name), getattr(two, each.name)) for each in fields(Batch)[:-1])


def take(loader: Loader, start: int, count: int) -> list[Batch]:
    return list(islice(loader.batches(start), count))


def test_workers_do_not_change_the_stream(data: AudioTextData, config: BaseConfig) -> None:
    here = take(Loader(data, tokens, config), 2, 7)
    there = take(Loader(data, tokens, replace(config, workers=2)), 2, 7)
    assert all(same(one, two) for one, two in zip(here, there, strict=True))


def test_the_global_generator_is_left_alone(data: AudioTextData, config: BaseConfig) -> None:
    before = torch.get_rng_state()
    for workers in (0, 1):
        take(Loader(data, tokens, replace(config, workers=workers)), 0, 1)
    assert torch.equal(torch.get_rng_state(), before)


def test_starting_later_equals_skipping(data: AudioTextData, config: BaseConfig) -> None:
    whole = take(Loader(data, tokens, config), 0, 12)
    for start in (1, 3, 4, 9):  # 4 micro-batches make an epoch
        later = take(Loader(data, tokens, config), start, 3)
        assert all(same(one, two) for one, two in zip(whole[start:], later, strict=False))


def test_a_row_is_one_clip_with_its_caption(data: AudioTextData, config: BaseConfig) -> None:
    for batch in take(Loader(data, tokens, config), 0, 4):
        assert len(batch) == 16
        for row, text in enumerate(texts(batch)):
            i = int(batch.index[row])
            found = [caption for caption in data.captions(i) if caption.text == text]
            assert found
            assert found[0].level == batch.level[row]
            assert tuple(batch.chain[row].tolist()) == data.chain(i)
            assert found[0].node == batch.chain[row, batch.level[row]]
            assert torch.equal(batch.audio[row], data.features(i))
            assert batch.frames[row] == data.frames(i)


def test_an_epoch_visits_each_clip_once_in_a_new_order(data: AudioTextData, config: BaseConfig) -> None:
    loader = Loader(data, tokens, config)
    assert loader.steps_per_epoch == 4
    epochs = [torch.cat([b.index for b in take(loader, 4 * e, 4)]) for e in range(3)]
    for order in epochs:
        assert len(set(order.tolist())) == 64  # six of the 70 are left out, others every time
    assert not torch.equal(epochs[0], epochs[1])
    assert {*epochs[0].tolist()} != {*epochs[1].tolist()} or {*epochs[1].tolist()} != {*epochs[2].tolist()}


def test_captions_change_between_epochs_and_seeds(data: AudioTextData, config: BaseConfig) -> None:
    def told(seed: int, epoch: int) -> dict[int, str]:
        loader = Loader(data, tokens, replace(config, seed=seed))
        batches = take(loader, 4 * epoch, 4)
        return {int(i): text for batch in batches for i, text in zip(batch.index, texts(batch), strict=True)}

    first, second, other = told(3, 0), told(3, 1), told(4, 0)
    both = first.keys() & second.keys()
    assert np.mean([first[i] != second[i] for i in both]) > 0.7
    assert np.mean([first[i] != other[i] for i in first.keys() & other.keys()]) > 0.7


def test_levels_are_drawn_by_their_weights(data: AudioTextData, config: BaseConfig) -> None:
    batches = take(Loader(data, tokens, config), 0, 200)
    counts = Counter(torch.cat([batch.level for batch in batches]).tolist())
    shares = [counts[level] / (200 * 16) for level in range(4)]
    assert shares == pytest.approx(config.data.level_weights, abs=0.03)
    only = replace(config, data=replace(config.data, level_weights=(0.0, 0.0, 1.0, 0.0)))
    assert set(take(Loader(data, tokens, only), 0, 1)[0].level.tolist()) == {2}


def test_overfit_repeats_the_first_clips(data: AudioTextData, config: BaseConfig) -> None:
    loader = Loader(data, tokens, replace(config, overfit=5))
    first, second = take(loader, 0, 2)
    (later,) = take(loader, 100, 1)
    assert first.index.tolist() == [0, 1, 2, 3, 4]
    assert same(first, second)
    assert same(first, later)
    assert loader.steps_per_epoch == 1


class Ordered:
    """The scenes, with an order of their own: clip k as often as `times` says, one after the other."""

    def __init__(self, data: AudioTextData, times: dict[int, int]) -> None:
        self.data = data
        self.times = times
        self.heard: list[tuple[list[int], int]] = []

    def __len__(self) -> int:
        return len(self.data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.data, name)

    def order(self, seed: int, epoch: int) -> np.ndarray:
        return np.repeat(list(self.times), list(self.times.values()))

    def features_batch(self, indices: np.ndarray, epoch: int | None = None) -> tuple[Tensor, Tensor]:
        self.heard.append((indices.tolist(), epoch or 0))
        return self.data.features_batch(indices, epoch)


def test_a_data_set_may_order_its_clips(data: AudioTextData, config: BaseConfig) -> None:
    ordered = Ordered(data, dict.fromkeys(range(69, -1, -1), 1))
    first, second = take(Loader(ordered, tokens, config), 0, 2)
    assert first.index.tolist() == list(range(69, 53, -1))
    assert second.index.tolist() == list(range(53, 37, -1))
    assert {epoch for _, epoch in ordered.heard} == {0}
    with pytest.raises(ValueError, match=r"order: scenes/train gave shape \(3,\), want one clip for each of 70"):
        Loader(Ordered(data, {1: 3}), tokens, config).batch(0)


def test_a_clip_that_returns_within_an_epoch_is_drawn_anew(data: AudioTextData, config: BaseConfig) -> None:
    ordered = Ordered(data, {5: 60, 6: 10})
    whole = take(Loader(ordered, tokens, config), 0, 4)
    assert torch.cat([batch.index for batch in whole]).tolist() == [5] * 60 + [6] * 4
    epochs = [epoch for indices, epoch in ordered.heard for _ in indices]
    assert len(set(epochs)) == 60  # what seeds the crops
    assert len({text for batch in whole[:3] for text in texts(batch)}) > 5
    for batch in whole:
        for row in range(16):
            assert torch.equal(batch.audio[row], data.features(int(batch.index[row])))
    later = take(Loader(ordered, tokens, config), 2, 2)
    assert all(same(one, two) for one, two in zip(whole[2:], later, strict=True))


def test_too_few_clips_and_bad_arguments(data: AudioTextData, config: BaseConfig) -> None:
    with pytest.raises(ValueError, match="batch_size is 71, but scenes/train has only 70 clips"):
        Loader(data, tokens, replace(config, batch_size=71))
    with pytest.raises(ValueError, match="overfit is 99"):
        Loader(data, tokens, replace(config, overfit=99))
    with pytest.raises(ValueError, match="batch_size must"):
        Loader(data, tokens, replace(config, batch_size=0))
    with pytest.raises(ValueError, match="start_step"):
        Loader(data, tokens, config).batches(-1)
    assert Loader(data, tokens, replace(config, batch_size=70)).steps_per_epoch == 1


def test_draw_caption_by_hand() -> None:
    captions = [Caption("g", 0, 1), Caption("s1", 3, 2), Caption("s2", 3, 2)]
    weights = (0.25, 0.0, 0.0, 0.75)
    assert draw_caption(captions, weights, 0.24, 0.9).text == "g"
    assert draw_caption(captions, weights, 0.26, 0.49).text == "s1"
    assert draw_caption(captions, weights, 0.99, 0.51).text == "s2"
    flat = [Caption("a", -1, -1), Caption("b", -1, -1)]
    assert draw_caption(flat, weights, 0.7, 0.6).text == "b"
    assert draw_caption(captions[:1], (0.0, 0.0, 0.0, 1.0), 0.7, 0.6).text == "g"  # only a level of weight 0
