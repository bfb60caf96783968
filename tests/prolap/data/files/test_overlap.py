"""Sounds that occur in training and in evaluation."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import prolap.data.files.overlap as overlap
from prolap.config import BaseConfig, DataConfig
from prolap.data import open_data
from prolap.data.files.layouts import LAYOUTS
from prolap.data.files.overlap import Digests, Sound, common, duplicates
from tests.prolap.data.files.test_layouts import AC, QUIET, shard, table, write


def test_by_content(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", 1)
    shutil.copy(tmp_path / "a.wav", tmp_path / "b.wav")
    write(tmp_path / "c.wav", 2)  # the same size
    write(tmp_path / "d.wav", 1, 0.4)
    shard(tmp_path / "s.tar", {"x.wav": (tmp_path / "a.wav").read_bytes(), "x.txt": b"x"})
    sounds = {name: Sound(tmp_path / f"{name}.wav") for name in "abcd"}
    member = next(iter(LAYOUTS["wds"].rows(str(tmp_path / "s.tar"), "train"))).source
    assert member is not None
    found = common([sounds["a"], sounds["d"]], [sounds["c"], sounds["b"], Sound(member)], str(tmp_path / "cache"))
    assert [each[:2] for each in found] == [
        (str(tmp_path / "a.wav"), str(tmp_path / "b.wav")),
        (str(tmp_path / "a.wav"), str(member)),
    ]
    assert {each.same for each in found} == {"content"}
    assert common([sounds["d"]], [sounds["c"], Sound(tmp_path / "none.wav")], str(tmp_path / "cache")) == []
    again = duplicates([*sounds.values(), Sound(member)], str(tmp_path / "cache"))
    assert [each.second for each in again] == [str(tmp_path / "b.wav"), str(member)]


def test_files_that_differ_only_in_the_middle(tmp_path: Path) -> None:
    content = bytearray(os.urandom(4 * overlap.ENDS))
    (tmp_path / "a").write_bytes(content)
    (tmp_path / "b").write_bytes(content)
    content[len(content) // 2] ^= 1
    (tmp_path / "c").write_bytes(content)
    sounds = [Sound(tmp_path / name) for name in "abc"]
    found = common(sounds[:1], sounds[1:], str(tmp_path / "cache"))
    assert [each.second for each in found] == [str(tmp_path / "b")]


def test_by_video(tmp_path: Path) -> None:
    for number, name in enumerate("abcde"):
        write(tmp_path / f"{name}.wav", number, 0.3 + number / 100)
    first = [Sound(tmp_path / "a.wav", "AAAAAAAAAAA@30"), Sound(tmp_path / "b.wav", "BBBBBBBBBBB")]
    second = [
        Sound(tmp_path / "c.wav", "AAAAAAAAAAA@30"),
        Sound(tmp_path / "d.wav", "AAAAAAAAAAA@90"),  # another part of the video
        Sound(tmp_path / "e.wav", "BBBBBBBBBBB@5"),  # one of the two does not say where it starts
        Sound(tmp_path / "e.wav", ""),
    ]
    found = common(first, second, str(tmp_path / "cache"))
    assert [(Path(each.first).name, Path(each.second).name, each.same) for each in found] == [
        ("a.wav", "c.wav", "video"),
        ("b.wav", "e.wav", "video"),
    ]


def test_hashes_are_kept_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.wav", 1)
    shutil.copy(tmp_path / "a.wav", tmp_path / "b.wav")
    pair = [Sound(tmp_path / "a.wav")], [Sound(tmp_path / "b.wav")], str(tmp_path / "cache")
    calls = []
    hashing = overlap._hash
    monkeypatch.setattr(overlap, "_hash", lambda *a, **k: calls.append(1) or hashing(*a, **k))
    assert len(common(*pair)) == 1
    assert len(calls) == 2
    assert len(common(*pair)) == 1
    assert len(calls) == 2
    write(tmp_path / "b.wav", 2)  # the same size
    os.utime(tmp_path / "b.wav", ns=(1, 1))
    assert common(*pair) == []
    assert len(calls) == 3
    Digests(pair[2]).path.write_text("{damaged")
    assert common(*pair) == []


def test_only_files_of_equal_size_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.wav", 1)
    write(tmp_path / "b.wav", 1, 0.5)
    monkeypatch.setattr(overlap, "_hash", lambda *a, **k: pytest.fail("a file was hashed"))
    assert common([Sound(tmp_path / "a.wav")], [Sound(tmp_path / "b.wav")], str(tmp_path / "cache")) == []


def test_opening_the_training_data_looks_for_overlap(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for split, names in {
        "train": ("AbCdEfGhIj0", "AbCdEfGhIj1"),
        "val": ("AbCdEfGhIj2",),
        "test": ("AbCdEfGhIj1",),
    }.items():
        for name in names:
            write(tmp_path / split / f"{name}_30.wav", len(split) + int(name[-1]), 0.3 + len(split) / 100)
        table(tmp_path / f"{split}.csv", AC, *(f"1,{name},30,{name}" for name in names))
    data = DataConfig(train=f"audiocaps:{tmp_path}", cache=str(tmp_path / "cache"))
    with pytest.raises(ValueError, match=r"data\.overlap: 1 sounds of test also occur.*AbCdEfGhIj1_30\.wav \(video\)"):
        open_data(BaseConfig(data=data), "train", **QUIET)
    with caplog.at_level(logging.WARNING):
        assert len(open_data(BaseConfig(data=replace(data, overlap="warn")), "train", **QUIET)) == 2
    assert "1 sounds of test" in caplog.text
    caplog.clear()
    for config in (BaseConfig(data=replace(data, overlap="ignore")), BaseConfig(data=data, overfit=1)):
        assert len(open_data(config, "train", **QUIET)) == 2
    assert len(open_data(BaseConfig(data=data), "test", **QUIET)) == 1
    assert not caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        open_data(BaseConfig(data=replace(data, train=f"audiocaps/val:{tmp_path}", test="none.csv")), "train", **QUIET)
    assert "data.test cannot be read" in caplog.text


def test_kept_hashes_that_were_damaged_are_made_again(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.wav", "b.wav")]
    for path in paths:
        path.write_bytes(b"the same")
    sounds = [Sound(path) for path in paths]
    kept = tmp_path / "digests.json"
    assert len(common(sounds[:1], sounds[1:], str(tmp_path))) == 1
    whole = kept.read_bytes()
    for place in range(len(whole)):
        kept.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert len(common(sounds[:1], sounds[1:], str(tmp_path))) == 1, place
    kept.write_bytes(b"[" * 100_000)
    assert len(common(sounds[:1], sounds[1:], str(tmp_path))) == 1
