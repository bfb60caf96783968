"""What is kept on disk: damage of any byte is noticed and made good, unfinished files go, and nothing read is executed."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from prolap.config import DataConfig
from prolap.data import cache
from prolap.data.scenes.rendered import RenderedMels

SHAPE = (250, 20, 8)


def render(clip: int) -> np.ndarray:
    return np.random.default_rng(clip).normal(size=SHAPE[1:]).astype(np.float16)


WANTED = np.stack([render(clip) for clip in range(SHAPE[0])])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    rendered(tmp_path / "mels-train-0.npy")
    return tmp_path / "mels-train-0.npy"


def rendered(path: Path) -> tuple[RenderedMels, list[tuple[str, int, int]]]:
    told: list[tuple[str, int, int]] = []
    return RenderedMels(path, SHAPE, render, "train", lambda *step: told.append(step)), told


def test_log_mels_of_scenes_are_rendered_once(path: Path) -> None:
    mels, told = rendered(path)
    assert not told
    assert np.array_equal(mels.stack(range(250)), WANTED)
    assert np.array_equal(mels.stack([7, 3, 7]), WANTED[[7, 3, 7]])
    assert np.array_equal(mels[249], WANTED[249])
    assert np.array_equal(np.load(path), WANTED), "it is an .npy file"


def test_a_damaged_clip_is_rendered_again_and_put_back(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(os.urandom(4096))
    mels, told = rendered(path)
    assert np.array_equal(mels[3], WANTED[3])
    assert not caplog.text, "only what is read is checked"
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(mels.stack(range(250)), WANTED)
    assert "is damaged and is rendered again" in caplog.text
    caplog.clear()
    assert np.array_equal(rendered(path)[0].stack(range(250)), WANTED)
    assert not told
    assert not caplog.text
    path.write_bytes(b"")  # cut short, then removed, while it is in use
    assert np.array_equal(mels.stack(range(250)), WANTED)
    path.unlink()
    assert np.array_equal(mels.stack(range(250)), WANTED)


def test_every_flipped_byte_of_log_mels_of_scenes_is_noticed(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = path.read_bytes()
    for place in [*range(128), *range(128, len(whole), 1009), *range(len(whole) - 32, len(whole))]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        caplog.clear()
        assert np.array_equal(rendered(path)[0].stack(range(250)), WANTED), place
        assert "rendered again" in caplog.text, place
        assert path.read_bytes() == whole


@pytest.mark.parametrize("damage", ["empty", "cut", "longer", "swapped", "folder"])
def test_files_of_another_size_or_order_are_noticed(path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    whole, clip = path.read_bytes(), WANTED[0].nbytes
    swapped = whole[:128] + whole[128 + clip : 128 + 2 * clip] + whole[128 : 128 + clip] + whole[128 + 2 * clip :]
    contents = {"empty": b"", "cut": whole[:-1], "longer": whole + b"0", "swapped": swapped, "folder": whole}
    path.write_bytes(contents[damage])
    if damage == "folder":  # a file of another split under this name: its checksums are those of its own name
        other = path.with_name("mels-dev-0.npy")
        RenderedMels(other, SHAPE, lambda clip: render(clip + 1), "dev", lambda *_: None)
        os.replace(other, path)
    assert np.array_equal(rendered(path)[0].stack(range(250)), WANTED)
    assert "rendered again" in caplog.text


def test_a_cache_that_cannot_be_written_is_repaired_in_memory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = path.read_bytes()[:1000] + bytes(100) + path.read_bytes()[1100:]
    path.write_bytes(damaged)
    mels, _ = rendered(path)
    opened = Path.open

    def only_reading(self: Path, mode: str = "r", **rest: object) -> object:
        if "+" in mode:
            raise PermissionError(self)
        return opened(self, mode, **rest)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", only_reading)
    assert np.array_equal(mels.stack(range(250)), WANTED)
    assert path.read_bytes() == damaged


HOLD = """
import sys, time
from pathlib import Path
from prolap.data import cache
with cache.written(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    time.sleep(600)
"""


def test_leftovers_of_killed_processes_go_and_the_work_of_living_ones_stays(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        processes = {}
        for name in ("dead", "alive", "fresh"):
            command = [sys.executable, "-c", HOLD, str(tmp_path / name)]
            process = processes[name] = stack.enter_context(
                subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == "writing\n"
        for name in ("dead", "fresh"):
            processes[name].kill()
            processes[name].wait()
        unfinished = {path.name.split(".")[1]: path for path in tmp_path.glob(".*.tmp")}
        assert set(unfinished) == {"dead", "alive", "fresh"}
        for name in ("dead", "alive"):
            os.utime(unfinished[name], (0, 0))
        with cache.written(tmp_path / "next") as file:
            file.write(b"whole")
        assert {path.name.split(".")[1] for path in tmp_path.glob(".*.tmp")} == {"alive", "fresh"}
        assert (tmp_path / "next").read_bytes() == b"whole"


def kept(tmp_path: Path) -> tuple[cache.LogMelCache, Path, torch.Tensor]:
    sound = tmp_path / "sound.wav"
    sound.write_bytes(b"any")
    return cache.LogMelCache(DataConfig(cache=str(tmp_path / "cache"), mels=8)), sound, torch.randn(9, 8)


def test_every_flipped_byte_of_a_kept_log_mel_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logmels, sound, mel = kept(tmp_path)
    rounded = logmels.get(sound, lambda: mel)
    path = logmels.path(sound)
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in (1, 0x80):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
            caplog.clear()
            assert torch.equal(logmels.get(sound, lambda: mel), rounded), place
            assert "is made again" in caplog.text, place
    for cut in (b"", whole[:-1], whole[:10], whole + b"0"):
        path.write_bytes(cut)
        assert torch.equal(logmels.get(sound, lambda: mel), rounded)
    other = tmp_path / "other.wav"
    other.write_bytes(b"another")
    logmels.get(other, lambda: mel + 1)
    path.write_bytes(logmels.path(other).read_bytes())
    assert torch.equal(logmels.get(sound, lambda: mel), rounded), "files that were swapped are noticed"


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(Bomb.place),)

    place = Path()


@pytest.mark.parametrize("kind", ["object array", "pickle", "nested", "no arrays"])
def test_a_forged_log_mel_is_never_executed(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    logmels, sound, mel = kept(tmp_path)
    rounded, path, Bomb.place = logmels.get(sound, lambda: mel), logmels.path(sound), tmp_path / "executed"
    content = io.BytesIO()
    if kind == "object array":
        np.savez(content, mel=np.array([Bomb()], dtype=object))
    elif kind == "pickle":
        content.write(pickle.dumps(Bomb()))
    elif kind == "nested":
        content.write(b"\x93NUMPY\x01\x00\xf0\x0f" + b"(" * 4080)
    else:
        np.savez(content, other=np.zeros(1))
    path.write_bytes(content.getvalue() + cache.checksum(content.getvalue(), path.name))
    assert torch.equal(logmels.get(sound, lambda: mel), rounded)
    assert "is made again" in caplog.text
    assert not Bomb.place.exists()
