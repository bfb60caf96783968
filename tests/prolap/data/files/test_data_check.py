"""`prolap data check`: what it counts and what it finds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from prolap.cli.main import main
from tests.prolap.data.files.test_layouts import RATE, sound, write


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write(tmp_path / "train" / "a.wav", 1, 0.5)
    write(tmp_path / "train" / "b.wav", 2, 4.0)
    soundfile.write(tmp_path / "train" / "silent.wav", np.zeros(RATE), RATE)
    soundfile.write(tmp_path / "train" / "loud.wav", np.clip(50 * sound(3, 1.0), -1, 1), 8000)
    stereo = np.stack([sound(5, 2.0)] * 2, 1)
    soundfile.write(tmp_path / "train" / "stereo.flac", stereo, 44_100)
    shutil.copy(tmp_path / "train" / "a.wav", tmp_path / "train" / "twice.wav")
    for path in list((tmp_path / "train").iterdir()):
        path.with_suffix(".txt").write_text("one two three\nfour")
    (tmp_path / "train" / "b.txt").write_text("one")
    write(tmp_path / "train" / "dumb.wav", 7)
    write(tmp_path / "test" / "c.wav", 2, 4.0).with_suffix(".txt").write_text("the same as b")
    return tmp_path


def check(place: Path, *words: str) -> tuple[int, dict[str, object]]:
    out = place / "out.json"
    arguments = ["data", "check", f"folder:{place}", "--quiet", "--json", str(out), f"--data.cache={place / 'cache'}"]
    status = main([*arguments, "--data.seconds=3", "--preset=prolap+tiny", *words])
    return status, json.loads(out.read_text())


def test_what_is_there(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = check(place)
    assert status == 0
    train, test = found["splits"]  # type: ignore[misc]
    assert train["clips"] == 6
    assert train["captions"] == {"total": 11, "per_clip": {"1": 1, "2": 5}}
    assert train["seconds"]["max"] == 4.0
    assert train["sample_rates"] == {"8000": 1, "16000": 4, "44100": 1}
    assert train["channels"] == {"1": 5, "2": 1}
    assert train["longer_than"]["data.seconds"] == {"limit": 3.0, "sounds": 1}
    assert train["silent"] == ["silent.wav"]
    assert train["clipped"] == ["loud.wav"]
    assert train["unusable"] == {"dumb.wav": "no dumb.txt or dumb.json beside it"}
    assert [Path(each["second"]).name for each in train["duplicates"]] == ["twice.wav"]
    assert test["clips"] == 1
    assert [(Path(c["first"]).name, Path(c["second"]).name) for c in found["overlap"][0]["sounds"]] == [
        ("b.wav", "c.wav")
    ]  # type: ignore[index]
    text = capsys.readouterr().out
    assert f"folder:{place.name}/train: 6 clips, 11 captions (1 (1), 2 (5) a clip)" in text
    assert "longer than data.seconds = 3: 1 sounds" in text
    assert "share 1 sounds" in text
    assert "/dev: left out" in text


def test_broken_sounds_are_named_and_fail(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (place / "train" / "stereo.flac").read_bytes()
    (place / "train" / "stereo.flac").write_bytes(whole[: len(whole) // 2])
    (place / "train" / "a.wav").write_bytes(b"no sound")
    soundfile.write(place / "train" / "b.wav", np.full(8000, np.nan, np.float32), RATE, subtype="FLOAT")
    status, found = check(place, "--split", "train")
    assert status == 1
    broken = found["splits"][0]["broken"]  # type: ignore[index]
    assert sorted(broken) == ["a.wav", "b.wav", "stereo.flac"]
    assert "not finite" in broken["b.wav"]
    assert "broken: 3" in capsys.readouterr().out


def test_errors_are_sentences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", f"audiocaps:{tmp_path}"]) == 2
    assert main(["data", "check", "nothing:x"]) == 2
    assert main(["data", "check", f"folder:{tmp_path}", "--data.secnds=3"]) == 2
    assert main(["data", "check", "scenes"]) == 2
    errors = capsys.readouterr().err
    assert "scenes itself" in errors
    assert f"audiocaps:{tmp_path}: no split was found" in errors
    assert "want aac:NAME:FOLDER, " in errors
    assert "did you mean data.seconds" in errors


def documents(folder: Path, *words: str) -> list[dict[str, Any]]:
    """The splits of a check that ended well."""
    out = folder / "out.json"
    cache = f"--data.cache={folder / 'cache'}"
    assert main(["data", "check", *words, "--quiet", "--json", str(out), cache, "--preset=prolap+tiny"]) == 0
    splits: list[dict[str, Any]] = json.loads(out.read_text())["splits"]
    return splits


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    """train.csv and dev.csv."""
    for number in range(5):
        write(tmp_path / f"{number}.wav", number)
    chain = "sound|an animal|a dog|A dog  barks"
    rows = [
        f"0.wav,a dog barks,,{chain}",  # the chain says the caption again
        "1.wav,rain falls,Rain falls,",  # the same twice
        "2.wav,rain falls,on a roof of tin near the sea,",
    ]
    (tmp_path / "train.csv").write_text("\n".join(["audio,caption_1,caption_2,chain", *rows]) + "\n")
    rows = ["3.wav,a cat barks,,", "4.wav,rain falls slowly,,"]
    (tmp_path / "dev.csv").write_text("\n".join(["audio,caption_1,caption_2,chain", *rows]) + "\n")
    return tmp_path


def test_captions_that_repeat(manifests: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (train,) = documents(manifests, str(manifests / "train.csv"), "--model.max_tokens=7")
    assert train["captions"] == {"total": 8, "per_clip": {"2": 2, "4": 1}}
    assert train["repeated_captions"] == {"within": ["1.wav: rain falls"], "across": {"rain falls": 2}}
    assert train["longer_than"]["model.max_tokens"] == {"limit": 7, "captions": 1}
    assert train["unknown_words"]["unknown"] == 0
    text = capsys.readouterr().out
    assert "captions that a clip has twice: 1\n    1.wav: rain falls" in text
    assert "captions that several clips have: 1\n    rain falls (2 clips)" in text
    assert "longer than model.max_tokens = 7: 1 captions" in text


@pytest.mark.parametrize("splits", [["--split", "train", "--split", "dev"], []])
def test_dev_is_what_its_option_names(manifests: Path, splits: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    found = documents(manifests, str(manifests / "train.csv"), *splits, f"--data.dev={manifests / 'dev.csv'}")
    assert [(split["name"], split["clips"]) for split in found] == [("train.csv", 3), ("dev.csv", 2)]
    assert found[1]["unknown_words"] == {"words": 6, "unknown": 2}  # cat, slowly
    text = capsys.readouterr().out
    assert "unknown to the vocabulary: 2 of 6 words (33.3%)" in text
    assert "share" not in text


def test_a_manifest_may_be_any_one_split(manifests: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dev = str(manifests / "dev.csv")
    assert [split["name"] for split in documents(manifests, dev, "--split", "dev")] == ["dev.csv"]
    assert documents(manifests, dev, "--split", "dev")[0]["unknown_words"] is None, "training data are not known"
    (found,) = documents(manifests, dev, "--split", "dev", f"--data.train={manifests / 'train.csv'}")
    assert found["unknown_words"]["unknown"] == 2
    assert main(["data", "check", dev, "--split", "train", "--split", "dev"]) == 2
    assert "has no dev split; name one by --data.dev" in capsys.readouterr().err


def test_a_damaged_middle_is_broken_and_not_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A short sound in a long silence, as many recordings are: where it was, there is a hole."""
    noise = np.zeros(5 * 44_100)
    noise[44_100 * 2 : 44_100 * 3] = 0.3 * np.random.default_rng(0).standard_normal(44_100).clip(-3, 3)
    soundfile.write(tmp_path / "hole.ogg", noise, 44_100)
    whole = (tmp_path / "hole.ogg").read_bytes()
    (tmp_path / "hole.ogg").write_bytes(
        whole[: len(whole) // 4] + bytes(len(whole) // 2) + whole[len(whole) * 3 // 4 :]
    )
    soundfile.write(tmp_path / "half.wav", noise, 44_100)
    (tmp_path / "half.wav").write_bytes((tmp_path / "half.wav").read_bytes()[:200_000])
    (tmp_path / "m.csv").write_text("audio,caption\nhole.ogg,x\nhalf.wav,y\n")
    out = tmp_path / "out.json"
    assert (
        main(["data", "check", str(tmp_path / "m.csv"), "--quiet", "--json", str(out), f"--data.cache={tmp_path}"]) == 1
    )
    (split,) = json.loads(out.read_text())["splits"]
    assert sorted(split["broken"]) == ["half.wav", "hole.ogg"]
    assert split["broken"]["half.wav"] == "holds 99,978 of the 220,500 samples that it promises"
    assert not split["silent"]
