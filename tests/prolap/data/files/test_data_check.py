"""`prolap data check`: what it counts and what it finds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

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
