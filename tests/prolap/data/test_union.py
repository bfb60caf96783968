"""Weighted unions: who is drawn how often, and that every clip keeps its captions."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from prolap.config import AugmentConfig, BaseConfig, DataConfig
from prolap.data import AudioTextData, open_data
from prolap.data.batch import Batch
from prolap.data.files.layouts import LAYOUTS, Part
from prolap.data.loader import Loader
from prolap.data.union import WeightedUnion, parse
from prolap.models.tokenizers import WordVocabulary
from tests.prolap.data.files.test_layouts import QUIET, encoded, shard, write


class Numbers:
    """`size` clips that are nothing but numbers."""

    def __init__(self, name: str, size: int) -> None:
        self.name, self.size = name, size

    def __len__(self) -> int:
        return self.size


def union(*terms: tuple[int, float]) -> WeightedUnion:
    parts = [Numbers(f"p{k}", size) for k, (size, _) in enumerate(terms)]
    return WeightedUnion(parts, [weight for _, weight in terms])  # type: ignore[arg-type]


def test_sums() -> None:
    assert parse("a.csv") == [Part(LAYOUTS["manifest"], "a.csv", weight=1.0)]
    assert parse("audiocaps:/a+b * 2 + wds:/x/*.tar + c*2.csv * 0.5") == [
        Part(LAYOUTS["audiocaps"], "/a+b", weight=2.0),
        Part(LAYOUTS["wds"], "/x/*.tar", weight=1.0),
        Part(LAYOUTS["manifest"], "c*2.csv", weight=0.5),
    ]
    for text in ("a * 0", "a * x", "a * -1", "a * inf", " + a", "a * nan"):
        with pytest.raises(ValueError, match="number above 0"):
            parse(text)


def test_without_weights_an_epoch_is_every_clip_once() -> None:
    both = union((5, 1), (12, 1))
    for epoch in range(3):
        assert sorted(both.order(7, epoch)) == list(range(17))
    assert both.order(7, 0).tolist() != both.order(7, 1).tolist()
    assert both.order(7, 1).tolist() == both.order(7, 1).tolist()
    assert both.order(8, 0).tolist() != both.order(7, 0).tolist()


def test_a_clip_of_weight_two_is_drawn_twice_as_often() -> None:
    both = union((30, 2), (60, 1))
    assert both.counts() == [45, 45]
    drawn = Counter(np.concatenate([both.order(0, epoch) for epoch in range(40)]).tolist())
    assert {drawn[i] for i in range(30)} == {60}  # 40 epochs of 45 draws are 60 whole passes
    assert {drawn[i] for i in range(30, 90)} == {30}


def test_no_clip_comes_again_before_its_part_is_exhausted() -> None:
    both = union((7, 3), (20, 1))
    first = both.counts()[0]
    stream = np.concatenate([both._stream(3, 0, epoch * first, first) for epoch in range(7)])
    for start in range(0, len(stream) - 6, 7):
        assert sorted(stream[start : start + 7]) == list(range(7))
    for epoch in range(4):
        order = both.order(3, epoch)
        assert sorted(order[order < 7]) == sorted(both._stream(3, 0, epoch * first, first))


def test_counts_sum_to_the_clips_and_starve_nobody() -> None:
    for terms in [
        ((3, 1e-9), (50, 1)),
        ((1, 1), (1, 1)),
        ((10, 0.3), (7, 2.2), (19, 0.01)),
        ((5, 1e9), (5, 1), (5, 1)),
    ]:
        both = union(*terms)
        assert sum(both.counts()) == len(both)
        assert min(both.counts()) >= 1


def test_clips_keep_their_sounds_and_captions(tmp_path: Path) -> None:
    for name, count, seconds in (("a", 3, 0.2), ("b", 2, 0.4)):
        rows = [f"{name}{i}.wav,{name} {i},x|{name}|y|z {name}{i}" for i in range(count)]
        for i in range(count):
            write(tmp_path / f"{name}{i}.wav", i + 10 * count, seconds)
        (tmp_path / f"{name}.csv").write_text("\n".join(["audio,caption,chain", *rows]))
    config = DataConfig(train=f"{tmp_path}/a.csv * 2 + {tmp_path}/b.csv", cache=str(tmp_path / "cache"))
    data = open_data(BaseConfig(data=config), "train", **QUIET)
    assert isinstance(data, AudioTextData)
    assert data.name == "a.csv * 2 + b.csv"
    a, b = (parse(str(tmp_path / f"{name}.csv"))[0].open("train", config, **QUIET) for name in "ab")
    assert [data.captions(i)[0].text for i in range(5)] == ["a 0", "a 1", "a 2", "b 0", "b 1"]
    assert data.evaluation_captions(4) == b.evaluation_captions(1)
    assert data.chain(3) == b.chain(0)
    assert data.node_text(a.chain(2)[1]) == "a"
    assert data.node_text(b.chain(1)[3]) == "z b1"
    assert not data.unseen(0)
    mels, frames = data.features_batch([4, 0, 3])
    assert mels.shape[1] == 20
    assert frames.tolist() == [20, 10, 20] == [data.frames(i) for i in (4, 0, 3)]
    for row, wanted in enumerate((b.features(1), a.features(0), b.features(0))):
        assert torch.equal(mels[row, : len(wanted)], wanted)
        assert not mels[row, len(wanted) :].any()
    assert torch.equal(data.features(4), b.features(1))
    with pytest.raises(KeyError, match="does not occur"):
        data.node_text(3)
    with pytest.raises(IndexError):
        data.captions(5)
    data.report.write(tmp_path / "report.json")  # type: ignore[attr-defined]
    assert (tmp_path / "report.json").read_text().count('"used"') == 2


def test_batches_of_shards_and_files_are_exact_whatever_the_workers_and_the_start(tmp_path: Path) -> None:
    shard(
        tmp_path / "s.tar",
        {f"{i}{end}": body for i in range(5) for end, body in ((".flac", encoded(i)), (".txt", b"x y"))},
    )
    lines = ["audio,caption", *(f"{write(tmp_path / f'{i}.wav', 20 + i, 0.5)},a b" for i in range(4))]
    (tmp_path / "m.csv").write_text("\n".join(lines))
    spec = f"wds:{tmp_path}/s.tar * 2 + {tmp_path}/m.csv"
    augment = AugmentConfig(gain_db=3.0, shift=0.2)
    config = BaseConfig(
        batch_size=2, data=DataConfig(train=spec, seconds=0.2, augment=augment, cache=str(tmp_path / "cache"))
    )

    def batches(workers: int, start: int) -> list[Batch]:
        data = open_data(config, "train", **QUIET)
        loader = Loader(data, WordVocabulary.build(["a b x y"]), replace(config, workers=workers))
        assert loader.steps_per_epoch == 4
        stream = loader.batches(start)
        return [next(stream) for _ in range(9 - start)]

    whole = batches(0, 0)
    drawn = torch.cat([batch.index for batch in whole[:4]])
    assert (drawn < 5).sum() >= 4  # 6 or 7 of an epoch's 9 draws are from the shards, 8 of the 9 are in batches
    for other in (batches(1, 3), batches(0, 6)):
        for one, same in zip(whole[-len(other) :], other, strict=True):
            assert torch.equal(one.audio, same.audio)
            assert torch.equal(one.index, same.index)
            assert torch.equal(one.tokens, same.tokens)
