"""Manifests of real files: what is read, and that nothing is skipped in silence."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from prolap.config import BaseConfig, DataConfig
from prolap.data import AudioTextData, audio, cache, open_data, parse
from prolap.data.dataset import Split
from prolap.data.files.entries import Entry, Report, check_rows
from prolap.data.files.layouts import LAYOUTS
from prolap.data.files.overlap import Sound, common
from prolap.data.files.recordings import RecordingData, text_node

RATE = 16_000
QUIET = {"progress": lambda *_: None}


def read_manifest(path: Path, shortest: float = 0.0, **progress: Any) -> tuple[list[Entry], Report]:
    return check_rows(parse(str(path))[0].rows("train"), str(path), shortest, **progress)


def opened(path: str | Path, config: DataConfig, split: Split = "train", seed: int = 0) -> RecordingData:
    data = parse(str(path))[0].open(split, config, seed, **QUIET)
    assert isinstance(data, RecordingData)
    return data


def _write(folder: Path, name: str, seconds: float, rate: int = RATE) -> None:
    rng = np.random.default_rng(len(name))
    soundfile.write(folder / name, 0.1 * rng.standard_normal(round(seconds * rate)).astype(np.float32), rate)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sounds").mkdir()
    for name, seconds in (("a.wav", 1.0), ("b.flac", 5.0), ("c.ogg", 3.2), ("short.wav", 0.05), ("empty.wav", 0.0)):
        _write(tmp_path / "sounds", name, seconds)
    (tmp_path / "sounds" / "broken.flac").write_bytes(b"fLaC" + bytes(100))
    return tmp_path


def test_csv(folder: Path) -> None:
    path = folder / "m.csv"
    path.write_text(
        "audio,caption_1,caption_2,chain\n"
        f'sounds/a.wav,"a dog, barking",,sound | animal | a dog | a dog barking\n{folder / "sounds/b.flac"},rain,it rains,\n'
    )
    entries, report = read_manifest(path, **QUIET)
    assert [entry.captions for entry in entries] == [("a dog, barking",), ("rain", "it rains")]
    assert entries[0].chain == ("sound", "animal", "a dog", "a dog barking")
    assert [entry.seconds for entry in entries] == [1.0, 5.0]
    assert (report.used, report.skipped) == (2, ())


def test_jsonl_equals_csv(folder: Path) -> None:
    chain = ["sound", "animal", "a dog", "a dog barking"]
    rows = [
        {"audio": "sounds/a.wav", "captions": ["one", "two"], "chain": chain},
        {"audio": "sounds/b.flac", "caption": "three"},
        {"audio": "sounds/c.ogg", "captions": "four", "caption_1": "five", "other": 1},
    ]
    (folder / "m.jsonl").write_text("\n\n".join(json.dumps(row) for row in rows))
    entries, _ = read_manifest(folder / "m.jsonl", **QUIET)
    assert [entry.captions for entry in entries] == [("one", "two"), ("three",), ("four", "five")]
    assert entries[0].chain == tuple(chain)


def test_what_cannot_be_used_is_reported_and_skipped(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = [
        '{"audio": "sounds/a.wav", "caption": "fine"}',
        '{"audio": "sounds/none.wav", "caption": "x"}',
        '{"audio": "sounds/broken.flac", "caption": "x"}',
        '{"audio": "sounds/empty.wav", "caption": "x"}',
        '{"audio": "sounds/short.wav", "caption": "x"}',
        '{"audio": "sounds/b.flac", "captions": [" ", 3, null]}',
        '{"audio": "sounds/b.flac", "caption": "x", "chain": ["a", "b"]}',
        '{"audio": "sounds/b.flac", "caption": "x", "chain": "abcd"}',
        '{"audio": 3, "caption": "x"}',
        "{oops",
        '{"audio": " ", "caption": "x"}',
    ]
    (folder / "m.jsonl").write_text("\n".join(lines))
    with caplog.at_level(logging.WARNING):
        data = opened(folder / "m.jsonl", DataConfig())
    assert [entry.captions for entry in data.entries] == [("fine",)]
    assert "1 clips used, 10 skipped" in caplog.text
    reasons = {skip.row: skip.reason for skip in data.report.skipped}
    assert sorted(reasons) == list(range(2, 12))
    wanted = ("no such file", "not readable", "no samples", "shorter than data.min_seconds", "no caption")
    assert all(part in reasons[row] for row, part in zip(range(2, 7), wanted, strict=True))
    assert "4 texts" in reasons[7]
    assert "list of texts" in reasons[8]
    assert "JSON" in reasons[9]
    assert "JSON" in reasons[10]
    assert reasons[11] == "no audio given"
    data.report.write(folder / "report.json")
    written = json.loads((folder / "report.json").read_text())
    assert written["used"] == 1
    assert [skip["row"] for skip in written["skipped"]] == list(range(2, 12))


def test_a_truncated_file_is_skipped(folder: Path) -> None:
    whole = (folder / "sounds" / "b.flac").read_bytes()
    (folder / "sounds" / "b.flac").write_bytes(whole[:3000])
    (folder / "m.csv").write_text("audio,caption\nsounds/a.wav,x\nsounds/b.flac,y\n")
    entries, report = read_manifest(folder / "m.csv", 0.5, **QUIET)
    assert [Path(str(entry.path)).name for entry in entries] == ["a.wav"]
    assert [skip.audio for skip in report.skipped] == ["sounds/b.flac"]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("m.txt", "audio,caption\n", r"\.csv or \.jsonl"),
        ("m.csv", "file,text\na,b\n", "wanted columns `audio`"),
        ("m.csv", "audio\na.wav\n", "wanted columns"),
        ("m.csv", "audio,caption\n", "no row"),
        ("m.jsonl", "", "no row"),
    ],
)
def test_manifests_that_are_none(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=words):
        read_manifest(tmp_path / name, **QUIET)


def test_missing_and_binary_manifests(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.csv"):
        read_manifest(tmp_path / "none.csv")
    (tmp_path / "m.csv").write_bytes(b"audio,caption\n\xff\xfe\x00,x\n")
    with pytest.raises(ValueError, match="UTF-8"):
        read_manifest(tmp_path / "m.csv")


@pytest.fixture
def data(folder: Path) -> RecordingData:
    (folder / "m.jsonl").write_text(
        '{"audio": "sounds/a.wav", "captions": ["one", "eins"], "chain": ["Sound", "dog", "a dog", "a dog barks"]}\n'
        '{"audio": "sounds/b.flac", "caption": "two", "chain": ["sound ", "cat", "a cat", "a cat purrs"]}\n'
        '{"audio": "sounds/c.ogg", "chain": ["sound", "cat", "a cat", "a cat meows"]}\n'
    )
    return opened(folder / "m.jsonl", DataConfig(), seed=5)


def test_captions_nodes_and_chains(data: RecordingData) -> None:
    assert isinstance(data, AudioTextData)
    assert [tuple(caption[:2]) for caption in data.captions(0)] == [
        ("one", -1),
        ("eins", -1),
        ("Sound", 0),
        ("dog", 1),
        ("a dog", 2),
        ("a dog barks", 3),
    ]
    assert [caption.text for caption in data.evaluation_captions(0)] == ["one", "eins"]
    assert [caption.text for caption in data.evaluation_captions(2)] == ["a cat meows"]
    assert data.chain(0)[0] == data.chain(1)[0] == text_node(0, "sound")
    assert data.chain(1)[:3] == data.chain(2)[:3]
    assert data.chain(1)[3] != data.chain(2)[3]
    assert data.node_text(data.chain(1)[3]) == "a cat purrs"
    assert not data.unseen(0)
    with pytest.raises(KeyError, match="node 4"):
        data.node_text(4)


def test_features_are_the_log_mel_of_the_start(data: RecordingData, folder: Path) -> None:
    wave = audio.read(folder / "sounds" / "b.flac", RATE)
    assert torch.equal(data.features(1), data.log_mel(wave[:51_200]))
    assert [data.frames(i) for i in range(3)] == [50, 160, 160] == [len(data.features(i)) for i in range(3)]
    batch, frames = data.features_batch([0, 1])
    assert batch.shape == (2, 160, 64)
    assert frames.tolist() == [50, 160]
    assert torch.equal(batch[0, :50], data.features(0))
    assert not batch[0, 50:].any()


def test_training_crops_are_drawn_by_epoch_and_index(data: RecordingData, folder: Path) -> None:
    whole = audio.read(folder / "sounds" / "b.flac", RATE)
    starts = set()
    for epoch in range(6):
        part = data.waveform(1, epoch)
        assert torch.equal(part, data.waveform(1, epoch))
        found = [
            k
            for k in range(len(whole) - len(part) + 1)
            if whole[k] == part[0] and torch.equal(whole[k : k + 51_200], part)
        ]
        assert len(found) == 1
        starts.add(found[0])
    assert len(starts) == 6
    evaluation = opened(folder / "m.jsonl", DataConfig(), seed=5, split="test")
    assert torch.equal(evaluation.waveform(1, 3), whole[:51_200])
    short = audio.read(folder / "sounds" / "a.wav", RATE)
    assert torch.equal(data.waveform(0, 3), short)


def test_a_file_that_breaks_later_falls_back_to_its_start(
    data: RecordingData, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _write(folder / "sounds", "b.flac", 0.2)  # it was 5 s long when the manifest was checked
    with caplog.at_level(logging.WARNING):
        part = data.waveform(1, 0)
    assert "its start is used" in caplog.text
    assert part.numel() == 51_200
    assert not part[3200:].any()
    (folder / "sounds" / "b.flac").unlink()
    with pytest.raises(audio.AudioError, match=r"b\.flac: no such file"):
        data.waveform(1, 0)


def test_open_data_opens_manifests(data: RecordingData, folder: Path) -> None:
    both = DataConfig(train=str(folder / "m.jsonl"), test=str(folder / "m.jsonl"), cache=str(folder / "cache"))
    with pytest.raises(ValueError, match=r"data\.overlap: 3 sounds of test also occur in m\.jsonl"):
        open_data(BaseConfig(data=both), "train", **QUIET)
    config = BaseConfig(data=replace(both, overlap="ignore"))
    train, test = (open_data(config, split, **QUIET) for split in ("train", "test"))  # type: ignore[arg-type]
    assert len(train) == len(test) == 3
    assert train.name == "m.jsonl"


@contextlib.contextmanager
def within(seconds: int, pipe: Path) -> Iterator[None]:
    """A call that waits for ever, for somebody to write into the pipe, is an error."""

    def late(*_: object) -> None:
        os.close(os.open(pipe, os.O_RDWR | os.O_NONBLOCK))  # lets the threads that wait for it go on
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_what_is_no_file_is_refused_and_never_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "pipe.wav")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket.wav"))
        names = ["sounds/a.wav", "pipe.wav", "socket.wav", "/dev/zero", "sounds", "sounds/a.wav/x.wav"]
        (folder / "m.csv").write_text("audio,caption\n" + "".join(f"{name},x\n" for name in names))
        with within(20, folder / "pipe.wav"):
            entries, report = read_manifest(folder / "m.csv", **QUIET)
            other = [Sound(str(folder / name)) for name in names]
            assert len(common(other, other, str(folder / "cache"))) == 1
    assert len(entries) == 1
    assert [skip.reason for skip in report.skipped] == [
        "is a pipe, want a file",
        "is a socket, want a file",
        "is a device, want a file",
        "is a folder, want a file",
        "no such file",
    ]
    os.mkfifo(folder / "sounds" / "a.txt")
    os.mkfifo(folder / "shard.tar")
    with within(20, folder / "shard.tar"):
        row = next(row for row in LAYOUTS["folder"].rows(str(folder / "sounds"), "train") if row.sound == "a.wav")
        assert row.error == "no a.txt or a.json beside it"
        with pytest.raises(ValueError, match="want a file"):
            list(LAYOUTS["wds"].rows(str(folder / "shard.tar"), "train"))


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_name_that_cannot_be_one_costs_its_own_row_alone(folder: Path, suffix: str) -> None:
    names = ["sounds/a.wav", "x" * 300, "x" * 200_000, "~nobody-of-this-name/a.wav", "a.raw", "sounds/b.flac"]
    (folder / "a.raw").write_bytes(bytes(1000))
    if suffix == "csv":
        lines = ["audio,caption", *(f"{name},x" for name in names)]
    else:
        lines = [json.dumps({"audio": name, "caption": "x"}) for name in [*names[:-1], "a\0b", names[-1]]]
        lines.insert(1, "[" * 100_000)
    (folder / f"m.{suffix}").write_text("\n".join(lines) + "\n")
    entries, report = read_manifest(folder / f"m.{suffix}", **QUIET)
    assert [Path(str(entry.path)).name for entry in entries] == ["a.wav", "b.flac"]
    assert "File name too long" in [skip.reason for skip in report.skipped]


def test_memory_of_a_manifest_is_that_of_its_texts(folder: Path) -> None:
    rows = 2000
    line = 'sounds/a.wav,"a dog number {} barks in the yard",sound|an animal|a dog|a dog number {} barks\n'
    (folder / "m.csv").write_text("audio,caption,chain\n" + "".join(line.format(i, i) for i in range(rows)))
    read_manifest(folder / "m.csv", **QUIET)  # imports
    tracemalloc.start()
    entries, _ = read_manifest(folder / "m.csv", **QUIET)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(entries) == rows
    assert kept < 900 * rows, kept
    assert peak < 1500 * rows, peak


KEEP = """
import resource, sys
import numpy as np, soundfile, soxr, torch
from prolap.config import DataConfig
from prolap.data.files.recordings import RecordingData
from prolap.data.files.entries import Row
folder, seconds = sys.argv[1], int(sys.argv[2])
with soundfile.SoundFile(f"{folder}/long.flac", "w", 44_100, 2, subtype="PCM_16") as file:
    for _ in range(seconds):
        file.write(np.zeros((44_100, 2)))
soundfile.write(f"{folder}/short.wav", np.zeros(16_000), 16_000)
config = DataConfig(cache_features=True, cache=folder)
def mel(name):
    return RecordingData([Row(name, f"{folder}/{name}", ["x"])], "x", config, progress=lambda *_: None).features(0)
mel("short.wav")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert mel("long.flac").shape == (160, 64)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_long_sound_is_kept_with_bounded_memory(tmp_path: Path) -> None:
    """Half an hour in stereo is 635 MB as it is decoded, and 1.5 GB of windows."""
    command = [sys.executable, "-c", KEEP, str(tmp_path), "1800"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert int(done.stdout) < 250_000, "KB"
    assert (tmp_path / "long.flac").stat().st_size < 1_000_000


def test_of_a_sound_beyond_an_hour_the_first_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "LONGEST", 4.0)
    (folder / "m.csv").write_text("audio,caption\nsounds/b.flac,x\n")
    config = DataConfig(cache_features=True, cache=str(folder / "cache"), seconds=1.0, eval_seconds=0.5)
    data = opened(folder / "m.csv", config)
    assert data.entries[0].seconds == 5.0
    whole = data.log_mel(audio.read(folder / "sounds" / "b.flac", RATE, seconds=4.0)).half()
    for epoch in range(5):
        crop = data.features_batch([0], epoch)[0][0].half()
        assert any(torch.equal(whole[k : k + 50], crop) for k in range(151))
    longer = opened(folder / "m.csv", replace(config, eval_seconds=5.0))
    assert len(longer.features(0)) == 250
    assert torch.equal(longer.features(0)[:190], whole[:190].float())
