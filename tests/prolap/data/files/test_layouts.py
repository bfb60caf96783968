"""Public layouts: which file belongs to which captions, whatever people call their folders."""

from __future__ import annotations

import io
import json
import sys
import tarfile
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from prolap.config import BaseConfig, DataConfig
from prolap.data import audio, open_data, parse, parts_of
from prolap.data.dataset import Split
from prolap.data.files.entries import check_rows
from prolap.data.files.layouts import LAYOUTS, Part, wds
from prolap.data.files.layouts.base import video_of_name
from prolap.data.files.tar import Member, members

RATE = 16_000
QUIET = {"progress": lambda *_: None}


def one(text: str) -> Part:
    """The only data set that a text names."""
    (part,) = parse(text)
    return part


def parts(config: BaseConfig, split: Split) -> list[Part]:
    return list(parts_of(config, split, parse(config.data.train)))


def sound(seed: int, seconds: float = 0.3) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))).astype(np.float32)


def write(path: Path, seed: int = 0, seconds: float = 0.3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound(seed, seconds), RATE)
    return path


def table(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


AC = "audiocap_id,youtube_id,start_time,caption"
ID = "-0a9ByX_bQs"  # ids may start with a dash


@pytest.mark.parametrize(
    "name",
    [
        f"val/{ID}_30.wav",
        f"audio/val/Y{ID}.wav",
        f"val/{ID}.flac",
        f"val/audio/{ID}_30000_40000.ogg",
        f"audio/Y{ID}_30.000_40.000.wav",
        f"audio_32000Hz/val/{ID}_30.flac",
        f"{ID}.mp3",
    ],
)
def test_audiocaps_finds_sounds_under_the_names_that_people_give_them(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, 1)
    table(tmp_path / "val.csv", AC, f"7,{ID},30,a dog", f'9,{ID},30,"a dog, barking"', "8,gone0000000,5,nothing left")
    rows = list(LAYOUTS["audiocaps"].rows(str(tmp_path), "dev"))
    assert [row.source for row in rows] == [path, None]
    assert rows[0].captions == ["a dog", "a dog, barking"]
    assert rows[0].video == f"{ID}@30"
    entries, report = check_rows(rows, "val", **QUIET)
    assert (len(entries), report.missing) == (1, 1)
    assert "1 clips used, 1 skipped (1 of them without a file)" in str(report)
    assert report.skipped[0].audio == "gone0000000_5"


def test_audiocaps_names_that_say_more_win_and_a_bare_id_is_refused_where_it_is_ambiguous(tmp_path: Path) -> None:
    write(tmp_path / "train" / f"{ID}_30.wav")
    write(tmp_path / "train" / f"{ID}.wav")
    table(tmp_path / "dataset" / "train.csv", AC, f"1,{ID},30,one", f"2,{ID},90,two")
    first, second = LAYOUTS["audiocaps"].rows(str(tmp_path), "train")
    assert first.source == tmp_path / "train" / f"{ID}_30.wav"
    assert not first.error
    assert "does not say which" in second.error
    assert first.video != second.video


def test_audiocaps_without_a_table_or_its_columns(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder"):
        list(LAYOUTS["audiocaps"].rows(str(tmp_path / "none"), "train"))
    with pytest.raises(FileNotFoundError, match=r"no test\.csv"):
        list(LAYOUTS["audiocaps"].rows(str(tmp_path), "test"))
    table(tmp_path / "test.csv", "youtube_id,caption", "x,y")
    with pytest.raises(ValueError, match="wanted columns start_time"):
        list(LAYOUTS["audiocaps"].rows(str(tmp_path), "test"))


@pytest.mark.parametrize("place", ["evaluation", "clotho_audio_evaluation", "clotho_audio_evaluation/evaluation"])
def test_clotho(tmp_path: Path, place: str) -> None:
    first, second = write(tmp_path / place / "Rain on  roof.wav", 1), write(tmp_path / place / "Metro_Pass.wav", 2)
    lines = ["file_name,caption_1,caption_2,caption_3,caption_4,caption_5", "Rain on  roof.wav,a,b,c,d,e"]
    table(tmp_path / "clotho_captions_evaluation.csv", *lines, "Metro : Pass.wav,f,g,h,i,j", "none.wav,k,l,m,n,o")
    rows = list(LAYOUTS["clotho"].rows(str(tmp_path), "test"))
    assert [row.source for row in rows] == [first, second, None]  # archivers replace colons
    assert [list(row.captions) for row in rows] == [list("abcde"), list("fghij"), list("klmno")]
    with pytest.raises(FileNotFoundError, match=r"clotho_captions_development\.csv"):
        list(LAYOUTS["clotho"].rows(str(tmp_path), "train"))


def test_folder_with_text_and_json_beside(tmp_path: Path) -> None:
    for name in ("a.wav", "b/c.flac", "b/d.wav", "e.wav"):
        write(tmp_path / name, len(name))
    (tmp_path / "a.txt").write_text("a door\n\nit closes \n")
    (tmp_path / "b" / "c.json").write_text(json.dumps({"captions": ["one", "two"], "chain": ["w", "x", "y", "z"]}))
    (tmp_path / "b" / "d.json").write_text("[1]")
    entries, report = check_rows(list(LAYOUTS["folder"].rows(str(tmp_path), "train")), "folder", **QUIET)
    assert [(entry.captions, entry.chain) for entry in entries] == [
        (("a door", "it closes"), ()),
        (("one", "two"), ("w", "x", "y", "z")),
    ]
    assert [skip.reason for skip in report.skipped] == ["wanted a JSON object", "no e.txt or e.json beside it"]
    assert not LAYOUTS["folder"].own_splits(str(tmp_path))


def test_folder_with_splits(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        write(tmp_path / split / "a.wav").with_suffix(".txt").write_text(split)
    assert LAYOUTS["folder"].own_splits(str(tmp_path))
    assert [list(row.captions) for row in LAYOUTS["folder"].rows(str(tmp_path), "dev")] == [["valid"]]
    with pytest.raises(FileNotFoundError, match="test or eval or evaluation"):
        list(LAYOUTS["folder"].rows(str(tmp_path), "test"))


def shard(path: Path, files: dict[str, bytes], mode: Any = "w") -> None:
    with tarfile.open(path, mode) as file:
        for name, content in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            file.addfile(header, io.BytesIO(content))


def encoded(seed: int, form: str = "FLAC", seconds: float = 0.3) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, sound(seed, seconds), RATE, format=form)
    return buffer.getvalue()


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    texts = {"captions": ["one", "two"], "youtube_id": ID, "start_time": 30}
    shard(
        tmp_path / "train-000.tar",
        {"x/a.b.flac": b"", "x/a.json": json.dumps(texts).encode(), "x/a.flac": encoded(1), "c.WAV": encoded(2, "WAV"),
         "c.txt": b"three\nfour\n"},
    )  # fmt: skip
    shard(tmp_path / "train-001.tar", {"d.ogg": encoded(3, "OGG"), "d.json": b'{"text": "five"}', "e.txt": b"silence"})
    shard(tmp_path / "val-000.tar", {"f.mp3": encoded(4, "MP3", 1.0), "f.txt": b"six"})
    return tmp_path


def test_shards(shards: Path) -> None:
    rows = list(LAYOUTS["wds"].rows(str(shards / "train-{000..001}.tar"), "train"))
    assert [row.sound for row in rows] == [f"train-000.tar/{key}" for key in ("x/a", "c")] + [
        f"train-001.tar/{key}" for key in ("d", "e")
    ]
    assert [list(row.captions) for row in rows] == [["one", "two"], ["three", "four"], ["five"], []]
    assert rows[0].video == f"{ID}@30"
    assert rows[3].error == "no sound among .txt"
    assert isinstance(rows[0].source, Member)
    assert torch.equal(audio.read(rows[1].source, RATE), audio.read(io_path(shards, encoded(2, "WAV")), RATE))
    part = audio.read(rows[0].source, RATE, 0.1, 0.1)
    assert torch.equal(part, audio.read(rows[0].source, RATE)[1600:3200])
    assert audio.info(next(iter(LAYOUTS["wds"].rows(str(shards / "v*.tar"), "dev"))).source).seconds >= 1.0


def io_path(folder: Path, content: bytes) -> Path:
    path = folder / "one.wav"
    path.write_bytes(content)
    return path


def test_shards_of_a_split(shards: Path) -> None:
    pattern = str(shards / "{split}-*.tar")
    assert [path.name for path in wds.shards(pattern, "dev")] == ["val-000.tar"]
    assert len(wds.shards(pattern, "train")) == 2
    with pytest.raises(FileNotFoundError, match="for the split test"):
        wds.shards(pattern, "test")
    with pytest.raises(FileNotFoundError, match=r"train-002\.tar"):
        wds.shards(str(shards / "train-{000..002}.tar"), "train")


def test_compressed_and_damaged_shards_are_refused(tmp_path: Path) -> None:
    shard(tmp_path / "a.tar", {"a.flac": encoded(1)}, "w:gz")
    with pytest.raises(ValueError, match="uncompressed tar"):
        list(members(tmp_path / "a.tar"))


def test_a_member_is_a_file_of_its_own(tmp_path: Path) -> None:
    shard(tmp_path / "a.tar", {"a": b"first", "b": b"0123456789", "c": b"last"})
    member = list(members(tmp_path / "a.tar"))[1]
    with member.open() as file:
        assert file.read() == b"0123456789"
        assert file.seek(-3, io.SEEK_END) == 7
        assert file.read(100) == b"789"
        file.seek(20)
        assert file.read() == b""
        file.seek(2)
        file.seek(1, io.SEEK_CUR)
        assert file.read(2) == b"34"


class FakeAAC:
    """As much of aac_datasets' classes as is used."""

    asked: dict[str, Any]

    def __init__(self, **options: Any) -> None:
        type(self).asked = options
        if options["subset"] == "none":
            raise RuntimeError("not prepared.\nPlease download")
        self.rows = {
            "fpath": [str(Path(options["root"]) / f"{ID}_30.wav"), str(Path(options["root"]) / "gone.wav")],
            "captions": [["one", "two"], ["three"]],
            "youtube_id": [ID, "gone0000000"],
            "start_time": [30, 5],
        }
        self.column_names = [*self.rows, "audio"]

    def __getitem__(self, key: tuple[slice, str]) -> list[Any]:
        return self.rows[key[1]][key[0]]


def test_aac_reads_the_metadata_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("aac_datasets")
    module.AudioCaps = module.Clotho = FakeAAC  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "aac_datasets", module)
    path = write(tmp_path / f"{ID}_30.wav")
    rows = one(f"aac:audiocaps:{tmp_path}").rows("dev")
    assert FakeAAC.asked == {"root": str(tmp_path), "subset": "val", "download": False, "verbose": 0}
    assert [(row.source, list(row.captions), row.video) for row in rows] == [
        (path, ["one", "two"], f"{ID}@30"),
        (None, ["three"], "gone0000000@5"),
    ]
    assert one(f"aac:Clotho:{tmp_path}").name("dev") == "aac:Clotho/dev"
    with pytest.raises(ValueError, match="AudioCaps cannot be read from .* Please download"):
        one(f"aac/none:AudioCaps:{tmp_path}").rows("train")
    with pytest.raises(ValueError, match="want NAME:FOLDER"):
        one(f"aac:Nothing:{tmp_path}").rows("train")
    with pytest.raises(ValueError, match="MACS has no dev split"):
        one(f"aac:MACS:{tmp_path}").rows("dev")


def test_aac_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aac_datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"prolap\[aac\]"):
        list(LAYOUTS["aac"].rows(f"Clotho:{tmp_path}", "train"))


def test_aac_is_imported_although_torchaudio_lacks_what_it_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchaudio

    monkeypatch.delitem(sys.modules, "aac_datasets", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "aac_datasets.py").write_text("from torchaudio import AudioMetaData\nimport nothing_of_that_name")
    with pytest.raises(ImportError, match="does not work here .*nothing_of_that_name"):
        list(LAYOUTS["aac"].rows(f"Clotho:{tmp_path}", "train"))
    assert not hasattr(torchaudio, "AudioMetaData")


def test_how_a_data_set_is_named(tmp_path: Path) -> None:
    assert one("audiocaps:/a b/c") == Part(LAYOUTS["audiocaps"], "/a b/c")
    assert one("clotho/validation:/x") == Part(LAYOUTS["clotho"], "/x", "validation")
    assert one(" data/m.csv ") == Part(LAYOUTS["manifest"], "data/m.csv")
    assert one("/odd:place/m.jsonl").layout is LAYOUTS["manifest"]
    assert one("scenes") == Part(LAYOUTS["scenes"], "")
    with pytest.raises(ValueError, match="did you mean audiocaps:FOLDER"):
        parse("audiocap:/x")
    with pytest.raises(ValueError, match="want aac:NAME:FOLDER, .* scenes, wds:PATTERN"):
        parse("clotho")
    assert set(LAYOUTS) == {"aac", "audiocaps", "clotho", "folder", "manifest", "scenes", "wds"}


def test_splits_follow_from_the_training_data(tmp_path: Path) -> None:
    config = BaseConfig(data=DataConfig(train=f"clotho:{tmp_path}"))
    assert parts(config, "dev") == parse(f"clotho:{tmp_path}")
    assert parts(replace(config, data=replace(config.data, test="t.csv")), "test") == parse("t.csv")
    assert parts(BaseConfig(data=DataConfig(train="scenes")), "dev") == parse("scenes")
    for train in ("m.csv", f"wds:{tmp_path}/a.tar", f"folder:{tmp_path}", f"clotho/evaluation:{tmp_path}"):
        with pytest.raises(ValueError, match=r"data\.test: got none.*--split dev"):
            parts(BaseConfig(data=DataConfig(train=train)), "test")
    with pytest.raises(ValueError, match=r"data\.dev: name a data set"):
        parts(BaseConfig(data=DataConfig(train="a.csv + scenes")), "dev")


def test_videos_in_file_names() -> None:
    assert video_of_name(f"Y{ID}") == ID
    assert video_of_name(f"{ID}_30") == video_of_name(f"Y{ID}_30000_40000") == video_of_name(f"{ID}_30.000_40.000")
    assert video_of_name(f"{ID}_30") == f"{ID}@30"
    for name in ("door_closed", "recording01_3", "Recording01_3", "RECORDING01_3", "a", ""):
        assert video_of_name(name) == ""


def test_clips_of_shards_are_used_as_those_of_files(shards: Path) -> None:
    data = one(f"wds:{shards}/train-*.tar").open("train", DataConfig(), **QUIET)
    assert [len(data.captions(i)) for i in range(len(data))] == [2, 2, 1]
    assert data.name.startswith("wds:")
    mels, frames = data.features_batch([2, 0])
    assert torch.equal(mels[1, : frames[1]], data.features(0))
    assert data.features(0).std() > 0


def test_open_data_of_a_public_layout(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "val", "test")):
        name = f"AbC{number:08d}"
        write(tmp_path / split / f"{name}_0.wav", number)
        table(tmp_path / f"{split}.csv", AC, f"1,{name},0,caption of {split}")
    config = BaseConfig(data=DataConfig(train=f"audiocaps:{tmp_path}", cache=str(tmp_path / "cache")))
    found = [open_data(config, split, **QUIET) for split in ("train", "dev", "test")]
    assert [data.captions(0)[0].text for data in found] == [f"caption of {split}" for split in ("train", "val", "test")]
