"""A run folder that something happened to: nothing is lost, one process writes at a time, and what is told is a sentence."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import prolap.training.train as training
from prolap.cli.main import main
from prolap.config.options import ConfigError
from prolap.training.config import load_config
from prolap.training.runs import load_run_config
from prolap.training.train import train
from prolap.utils import files
from prolap.utils.lock import NAME, FolderInUse, locked
from prolap.weights import checkpoint as checkpoints
from prolap.weights.checkpoint import CheckpointError
from tests.prolap.tiny import as_words, tiny_config, tiny_options, write_data
from tests.prolap.training.test_resume import assert_same, rows

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX processes and locks")
COMMAND = [sys.executable, "-m", "prolap", "train", "--quiet"]


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run"
    train(tiny_config(data, run), progress=False)
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def resume(run: Path) -> training.TrainResult:
    return train(replace(load_run_config(run), run=str(run)), resume=True, progress=False)


def steps(run: Path) -> set[str]:
    return {path.name for path in checkpoints.steps_of(run)}


@pytest.mark.parametrize("content", [None, b"", b"step-000", b"null", b"\xff\xfe", b"../..", "dangling", "folder"])
def test_a_lost_pointer_costs_nothing(run: Path, finished: Path, content: bytes | str | None) -> None:
    latest = run / "checkpoints/latest"
    latest.unlink()
    (run / "checkpoints/best").unlink()
    if isinstance(content, bytes):
        latest.write_bytes(content)
    elif content == "dangling":
        latest.symlink_to("nowhere")
    elif content == "folder":
        pytest.skip("a folder cannot be replaced by a file")
    with pytest.warns(RuntimeWarning, match="latest is missing or damaged. Going on from step-00000008") as caught:
        assert resume(run).step == 8
    assert len(caught) == 1
    assert_same(run, finished)


def test_the_commands_of_the_report_lose_nothing(run: Path, finished: Path) -> None:
    for name in ("latest", "best"):
        (run / "checkpoints" / name).unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(["train", "--quiet", "--resume", str(run)]) == 0
    assert_same(run, finished)


def test_evaluation_finds_what_lost_pointers_named(run: Path, finished: Path) -> None:
    best = checkpoints.pointed(finished, "best")
    assert best is not None
    for name in ("latest", "best"):
        (run / "checkpoints" / name).unlink()
    with pytest.warns(RuntimeWarning, match="lost its pointer"):
        assert checkpoints.resolve(run, "best").name == best.name
    with pytest.warns(RuntimeWarning, match="lost its pointer"):
        assert checkpoints.resolve(run, "last").name == "step-00000008"


def test_without_a_good_checkpoint_the_damaged_ones_stay(run: Path) -> None:
    before = steps(run)
    for path in checkpoints.steps_of(run):
        (path / "state.json").write_text("{}")
    with pytest.raises(CheckpointError, match="no good checkpoint"):
        resume(run)
    assert steps(run) == before


def start(words: list[str], **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen([*COMMAND, *words], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert path.exists()


def test_one_process_at_a_time_writes_a_run(data: Path, tmp_path: Path) -> None:
    """Beside a start, a second start and a resume are refused, one waits; after SIGKILL it goes on at once."""
    run = tmp_path / "run"
    words = as_words(tiny_options(data, run, steps=40, eval_every=40, workers=1))
    first = start([*words])
    wait_for(run / "checkpoints/latest")
    first.send_signal(signal.SIGSTOP)
    waiting = start(["--resume", str(run), "--wait"])
    others = [start([*words]), start(["--resume", str(run)])]
    for process in others:
        message = process.communicate(timeout=100)[1]
        assert process.returncode == 2
        assert f"(host {os.uname().nodename}, pid {first.pid}, since 20" in message
    assert first.poll() is None
    assert waiting.poll() is None
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert "waiting until it is done" in waiting.communicate(timeout=100)[1]
    assert waiting.returncode == 0
    assert [row["step"] for row in rows(run, "train")] == list(range(1, 41))
    assert not (run / NAME).exists()


def test_the_lock_keeps_out_its_own_process_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "new/run"
    with locked(folder):
        with pytest.raises(FolderInUse, match="by this process already; `--wait`"), locked(folder):
            pass
        assert (folder / NAME).exists()
    assert not folder.exists()


def test_a_failed_start_leaves_no_folder(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch_size is 40"):
        train(tiny_config(data, tmp_path / "run", batch_size=40), progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("line", [b'{"step": 3, "lo', b"\xff\x00\x01", b"[1, 2]", b'{"step": "3"}', b"[" * 100_000])
def test_a_damaged_log_line_is_reported_once(data: Path, run: Path, finished: Path, line: bytes) -> None:
    for kind in ("train", "dev"):
        lines = (run / f"{kind}.jsonl").read_bytes().splitlines()
        (run / f"{kind}.jsonl").write_bytes(b"\n".join([*lines[:1], line, *lines[2:]]) + b'\n{"step": 9}\n')
    with pytest.warns(RuntimeWarning, match="1 damaged lines were left out .line 2.") as caught:
        resume(run)
    assert len(caught) == 2
    assert rows(run, "train") == [row for row in rows(finished, "train") if row["step"] != 2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resume(run)


def forge(run: Path, **changes: Any) -> None:
    for path in checkpoints.steps_of(run):
        content = json.loads((path / "state.json").read_text())["content"] | changes
        record = {"sha256": checkpoints._digest(content), "content": content}
        (path / "state.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    "name", ["step", "clips", "stale", "skipped", "best", "scaler", "config", "versions", "vocabulary", "files"]
)
@pytest.mark.parametrize("value", ["x", [1], {"step": "x"}, 1.5])
def test_a_wrong_type_under_a_right_checksum_is_a_sentence(run: Path, name: str, value: Any) -> None:
    if name in ("scaler", "versions") and isinstance(value, dict):
        pytest.skip("of the right type: a scaler is read on GPUs alone, and other versions are a warning")
    forge(run, **{name: value})
    with pytest.raises((CheckpointError, ConfigError), match="state.json|no usable scaler|checkpoint"):
        resume(run)


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    "text", [DEEP, '{"a":' * 100_000, "null", "", "[1]", "9" * 5000, '{"content": 3, "sha256": 1}']
)
def test_forged_json_is_a_sentence(run: Path, text: str) -> None:
    for path in checkpoints.steps_of(run):
        (path / "state.json").write_text(text)
    with pytest.raises(CheckpointError, match="state.json"):
        resume(run)


@pytest.mark.parametrize(
    "text",
    [DEEP, "a: " + "{a: " * 5000, "a: &a [1]\nb: *a\n", "a: {b: {c: {d: {e: {f: {g: {h: {i: {j: 1}}}}}}}}}}", "- 1"],
)
def test_forged_yaml_is_a_sentence(run: Path, text: str) -> None:
    (run / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match="config.yaml"):
        load_run_config(run)


def test_a_pipe_is_not_waited_for(run: Path) -> None:
    for path in [*checkpoints.steps_of(run), run / "checkpoints"]:
        name = "latest" if path.name == "checkpoints" else "model.safetensors"
        (path / name).unlink()
        os.mkfifo(path / name)
    with pytest.raises(CheckpointError, match="model.safetensors is missing"):
        resume(run)


def leftovers(run: Path) -> list[str]:
    return [path.name for path in run.rglob("*") if path.name.startswith(".") or path.suffix == ".tmp"]


def test_a_full_disk_is_a_sentence_and_the_run_goes_on(data: Path, tmp_path: Path) -> None:
    """Files that may not grow beyond what a checkpoint needs; the limit of the process stands for the disk."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    train(tiny_config(data, whole), progress=False)
    words = as_words(tiny_options(data, run))
    size = (checkpoints.steps_of(whole)[0] / "optimizer.safetensors").stat().st_size

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, size - 1))

    process = start([*words], preexec_fn=limit)
    _, message = process.communicate(timeout=120)
    assert process.returncode == 2
    assert message.startswith("prolap: cannot write "), message
    assert str(run / "checkpoints/step-00000002") in message
    assert len(message.splitlines()) == 1
    assert not leftovers(run)
    resume(run)
    assert_same(run, whole)


@pytest.mark.parametrize("name", ["train.jsonl", "config.yaml", "versions.json", "latest", "state.json"])
def test_every_file_that_cannot_be_written_is_named(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    run, fsync, replace = tmp_path / "run", os.fsync, os.replace

    def full_fsync(handle: int) -> None:
        if name in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full_fsync)
    with pytest.raises(files.WriteError, match=f"cannot write .*{name}: No space left on device"):
        train(tiny_config(data, run), progress=False)
    monkeypatch.undo()
    assert os.replace is replace
    assert not leftovers(run)


def test_another_preset_is_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"preset \(was prolap-v1\+tiny, now siglip\)"):
        train(load_config(file=run / "config.yaml", overrides={"run": str(run), "preset": "siglip"}), resume=True)
    assert main(["train", "--quiet", "--resume", str(run), "--preset", "siglip"]) == 2


def test_a_finished_run_is_extended_on_purpose(data: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--quiet", "--resume", str(run), "--steps", "12"]) == 2
    assert "`--extend` makes a run longer" in capsys.readouterr().err
    assert main(["train", "--quiet", "--extend", "--steps", "12"]) == 2
    for few in ("8", "3"):
        assert main(["train", "--quiet", "--resume", str(run), "--extend", "--steps", few]) == 2
        assert "want more than" in capsys.readouterr().err
    assert main(["train", "--quiet", "--resume", str(run), "--extend", "--steps=12", "--optim.lr=1"]) == 2
    assert main(["train", "--quiet", "--resume", str(run), "--extend", "--steps", "12"]) == 0
    assert load_run_config(run).steps == 12
    assert "# extended to 12 steps after step 8," in (run / "config.yaml").read_text()
    assert [row["step"] for row in rows(run, "train")] == list(range(1, 13))
    assert resume(run).step == 12
    assert main(["train", "--quiet", "--resume", str(run), "--extend", "--steps", "14"]) == 0
    assert (run / "config.yaml").read_text().count("# extended") == 2


def test_an_extended_run_resumes_to_the_same_bits(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Path(shutil.copytree(run, tmp_path / "other"))
    config = load_config(file=run / "config.yaml", overrides={"run": str(run), "steps": 12})
    train(config, resume=True, extend=True, progress=False)

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "training_losses", stopped)
        config = load_config(file=other / "config.yaml", overrides={"run": str(other), "steps": 12})
        train(config, resume=True, extend=True, progress=False)
    config = load_config(file=other / "config.yaml", overrides={"run": str(other)})
    train(config, resume=True, progress=False)
    assert_same(other, run)


def test_patience_and_skipped_steps_are_restored(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    train(tiny_config(data, run, steps=2, patience=3), progress=False)
    forge(run, stale=2, skipped=1)
    states = []
    loop = training.Trainer.loop
    monkeypatch.setattr(
        training.Trainer, "loop", lambda self, *rest: states.append((self.stale, self.skipped)) or loop(self, *rest)
    )
    resume(run)
    assert states == [(2, 1)]


def test_paths_are_stored_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    write_data(tmp_path / "data")
    monkeypatch.chdir(tmp_path / "data")
    words = as_words(tiny_options(Path(), Path("../run"), steps=2))
    assert main(["train", "--quiet", *words]) == 0
    assert load_run_config(tmp_path / "run").data.train == str(tmp_path / "data/train.csv")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "run").rename(tmp_path / "moved")
    assert main(["evaluate", "--quiet", "--split", "dev", "../moved"]) == 0
    assert main(["train", "--quiet", "--resume", "../moved"]) == 0


def test_a_missing_manifest_names_the_folder_that_was_searched(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--quiet", *as_words(tiny_options(Path(), Path("run")))]) == 2
    assert f"no manifest train.csv in {tmp_path}" in capsys.readouterr().err


def test_files_are_as_readable_as_the_mask_says(data: Path, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        train(tiny_config(data, tmp_path / "run", steps=2), progress=False)
    finally:
        os.umask(before)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "run").rglob("*") if p.is_file()}
    assert "model.safetensors" in modes
    assert "data-train.json" in modes
    assert set(modes.values()) == {0o640}, modes


def test_everything_is_pushed_to_the_disk(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, synced, fsync = tmp_path / "run", set(), os.fsync

    def spy(handle: int) -> None:
        synced.add(os.readlink(f"/proc/self/fd/{handle}"))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", spy)
    config = tiny_config(data, run, steps=2, data__cache=str(tmp_path / "cache"), data__cache_features=True)
    train(config, progress=False)
    named = {Path(path).name.lstrip(".").split(".npz")[0].split(".tmp")[0] for path in synced}
    for name in ("model.safetensors", "optimizer.safetensors", "train.jsonl", "dev.jsonl", "checkpoints", "run"):
        assert name in named, name
    for name in ("state.json", "config.yaml", "versions.json", "latest", "best"):
        assert any(each.startswith(f"{name}.") for each in named), name
    cached = {path.stem for path in (tmp_path / "cache").rglob("*.npz")}
    assert cached
    assert cached <= named


def test_no_step_needs_no_full_batch(data: Path, tmp_path: Path) -> None:
    assert train(tiny_config(data, tmp_path / "run", steps=0, batch_size=40), progress=False).step == 0


def test_a_batch_larger_than_the_data_is_said_before_files_are_hashed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prolap.data._check_overlap", lambda *_: pytest.fail("hashed"))
    with pytest.raises(ValueError, match="batch_size is 40, but train.csv has only 12 clips"):
        train(tiny_config(data, tmp_path / "run", batch_size=40, data__overlap="error"), progress=False)


def test_another_best_than_the_state_names_is_noticed(run: Path) -> None:
    """A pointer has no checksum: one that names another checkpoint would give another model without a word."""
    folder = run / "checkpoints"
    best = checkpoints.resolve(run)
    assert best.name != (folder / "latest").read_text().strip()
    (folder / "best").write_text((folder / "latest").read_text())
    with pytest.warns(RuntimeWarning, match=f"says it is {best.name}, taking that"):
        assert checkpoints.resolve(run) == best
