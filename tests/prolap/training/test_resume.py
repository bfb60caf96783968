"""Killed with SIGKILL anywhere, a resumed run ends with the same bits as one that was never interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

import prolap.training.train as training
from prolap.config.options import ConfigError
from prolap.training import gradcache, logs
from prolap.training.runs import load_run_config
from prolap.training.train import train
from prolap.weights import checkpoint as checkpoints
from tests.prolap.public_models import MICRO_MSCLAP, small_msclap
from tests.prolap.tiny import as_words, tiny_config, tiny_options, write_data

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX processes and signals")


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    train(tiny_config(data, run), progress=False)
    return run


def rows(run: Path, kind: str) -> list[dict[str, object]]:
    return [
        {name: value for name, value in row.items() if name not in logs.TIMING}
        for row in logs.read(run / f"{kind}.jsonl")
    ]


def assert_same(run: Path, whole: Path) -> None:
    for which in ("latest", "best"):
        one, other = checkpoints.pointed(run, which), checkpoints.pointed(whole, which)
        assert one is not None
        assert other is not None
        assert one.name == other.name
        for name in ("model.safetensors", "optimizer.safetensors"):
            assert (one / name).read_bytes() == (other / name).read_bytes(), f"{which} {name}"
    assert rows(run, "train") == rows(whole, "train")
    assert rows(run, "dev") == rows(whole, "dev")
    assert {path.name for path in (run / "checkpoints").iterdir()} == {
        path.name for path in (whole / "checkpoints").iterdir()
    }


def resume(run: Path) -> training.TrainResult:
    config = load_run_config(run)
    return train(config, resume=True, progress=False)


def killed_in_fork(work: Callable[[], object]) -> bool:
    """Run in a forked process; whether SIGKILL ended it (and not the work itself)."""
    child = os.fork()
    if child == 0:
        code = 3
        try:
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115
            work()
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def killing(function: Callable[..., object], at: int, *, after: bool = False) -> Callable[..., object]:
    """The function, with SIGKILL before, or after, its call number `at`."""
    calls = 0

    def replaced(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == at and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments, **options)
        if calls == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return replaced


def test_the_reference_run_is_what_the_other_tests_need(whole: Path) -> None:
    assert [row["step"] for row in rows(whole, "train")] == list(range(1, 9))
    assert [row["step"] for row in rows(whole, "dev")] == [3, 6, 8]
    first, last = rows(whole, "train")[0], rows(whole, "train")[-1]
    assert {"loss/pairs", "loss/cross_inclusion", "loss/hierarchy", "loss/vib", "loss/repulsion"} <= first.keys()
    assert float(str(last["loss"])) < float(str(first["loss"]))


def test_the_same_run_twice_has_the_same_bits_and_another_seed_has_not(data: Path, whole: Path, tmp_path: Path) -> None:
    train(tiny_config(data, tmp_path / "same"), progress=False)
    assert_same(tmp_path / "same", whole)
    train(tiny_config(data, tmp_path / "other", seed=1), progress=False)
    assert rows(tmp_path / "other", "train")[0]["loss"] != rows(whole, "train")[0]["loss"]


@pytest.mark.parametrize("micro_batch", [1, 4, 8, 15])
def test_killed_in_a_step_and_in_mid_accumulation(data: Path, whole: Path, tmp_path: Path, micro_batch: int) -> None:
    run = tmp_path / "run"

    def work() -> None:
        training.training_losses = killing(training.training_losses, micro_batch)  # type: ignore[assignment]
        train(tiny_config(data, run), progress=False)

    assert killed_in_fork(work)
    result = resume(run)
    assert result.step == 8
    assert_same(run, whole)


def test_killed_between_chunks(data: Path, whole: Path, tmp_path: Path) -> None:
    """With dropout, whose random numbers the second pass of a chunk draws again."""
    options = {"optim__chunk": 3, "steps": 4}
    train(tiny_config(data, tmp_path / "whole", **options), progress=False)
    assert rows(tmp_path / "whole", "train")[0]["loss"] != rows(whole, "train")[0]["loss"]  # other numbers for dropout

    def work() -> None:
        gradcache._Chunk.replay = killing(gradcache._Chunk.replay, 43)  # type: ignore[method-assign]
        train(tiny_config(data, tmp_path / "run", **options), progress=False)

    assert killed_in_fork(work)
    resume(tmp_path / "run")
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_killed_in_fine_tuning_a_public_file(data: Path, tmp_path: Path) -> None:
    """Chunks, a frozen tower and weights of elsewhere, which are gone when the run goes on."""
    public = small_msclap(tmp_path / "clap.pth")
    towers = {name.replace(".", "__"): value for name, value in (word.split("=") for word in MICRO_MSCLAP)}
    options = {"preset": "prolap", "init": str(public), "model__freeze": "text", "optim__chunk": 3, "steps": 3}
    options |= {"eval_every": 3, "checkpoint_every": 1, "optim__accumulate": 1, **towers}
    train(tiny_config(data, tmp_path / "whole", **options), progress=False)

    def work() -> None:
        training.training_losses = killing(training.training_losses, 3)  # type: ignore[assignment]
        train(tiny_config(data, tmp_path / "run", **options), progress=False)

    assert killed_in_fork(work)
    public.unlink()
    assert resume(tmp_path / "run").step == 3
    assert_same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_killed_at_every_stage_of_writing(data: Path, whole: Path, tmp_path: Path, function: str, after: bool) -> None:
    """One run, killed again and again, each time a few calls further on, until it gets through."""
    run, kills = tmp_path / "run", 0
    for at in [4, 2, 3, 5, 1, 4, 7, 6, 9, 8, 11, 13]:

        def work(at: int = at) -> None:
            setattr(os, function, killing(getattr(os, function), at, after=after))
            # of a first checkpoint that nothing pointed at yet
            warnings.filterwarnings("ignore", ".*latest is missing", RuntimeWarning)
            if (run / "config.yaml").exists():
                resume(run)
            else:
                train(tiny_config(data, run), progress=False)

        if not killed_in_fork(work):
            break
        kills += 1
        if not (run / "config.yaml").exists():  # killed before there was a run to go on with
            for path in run.iterdir():
                path.unlink()
    assert kills >= 4
    resume(run)
    assert_same(run, whole)


def test_killed_while_old_checkpoints_are_deleted(data: Path, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"

    def work() -> None:
        checkpoints.shutil.rmtree = killing(checkpoints.shutil.rmtree, 4)  # type: ignore[assignment]
        train(tiny_config(data, run), progress=False)

    assert killed_in_fork(work)
    resume(run)
    assert_same(run, whole)


def test_the_command_line_killed_from_outside_at_some_moment(data: Path, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "prolap", "train", "--quiet"]
    process = subprocess.Popen([*command, *as_words(tiny_options(data, run))], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (run / "train.jsonl").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = subprocess.run([*command, "--resume", str(run)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "8 steps" in done.stdout
    assert_same(run, whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_stops_after_the_step(
    data: Path, whole: Path, tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, calls = tmp_path / "run", 0
    losses = training.training_losses

    def interrupting(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 9:  # in the first micro-batch of step 5
            signal.raise_signal(number)
        return losses(*arguments)  # type: ignore[arg-type]

    before = signal.getsignal(number)
    monkeypatch.setattr(training, "training_losses", interrupting)
    result = train(tiny_config(data, run), progress=False)
    assert (result.stopped, result.step, result.signal) == ("interrupted", 5, number)
    assert signal.getsignal(number) == before
    latest = checkpoints.pointed(run, "latest")
    assert latest is not None
    assert latest.name == "step-00000005"
    assert resume(run).stopped == "finished"
    assert_same(run, whole)


def test_a_damaged_checkpoint_falls_back_with_a_warning(data: Path, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny_config(data, run), progress=False)
    latest, best = checkpoints.pointed(run, "latest"), checkpoints.pointed(run, "best")
    assert latest is not None
    assert best is not None
    assert latest != best
    content = bytearray((latest / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (latest / "model.safetensors").write_bytes(content)
    with pytest.warns(RuntimeWarning, match=r"model.safetensors does not match its checksum.*Going on from step-"):
        resume(run)
    assert_same(run, whole)


def test_a_finished_run_resumes_to_itself(data: Path, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny_config(data, run), progress=False)
    result = resume(run)
    assert (result.stopped, result.step) == ("finished", 8)
    assert_same(run, whole)


def test_float16_resumes_with_its_loss_scaler(data: Path, tmp_path: Path) -> None:
    changes = {"optim__amp": "fp16", "steps": 5, "model__dropout": 0.0}
    train(tiny_config(data, tmp_path / "whole", **changes), progress=False)

    def work() -> None:
        training.training_losses = killing(training.training_losses, 8)  # type: ignore[assignment]
        train(tiny_config(data, tmp_path / "run", **changes), progress=False)

    assert killed_in_fork(work)
    resume(tmp_path / "run")
    assert_same(tmp_path / "run", tmp_path / "whole")
    latest = checkpoints.pointed(tmp_path / "run", "latest")
    assert latest is not None
    assert checkpoints.read(latest).state["scaler"]["scale"] > 1


def test_resuming_with_another_configuration_names_what_differs(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny_config(data, run, steps=2), progress=False)
    with pytest.raises(ConfigError, match=r"steps \(was 2, now 3\), optim.lr \(was 0.01, now 0.1\) differ"):
        train(tiny_config(data, run, steps=3, optim__lr=0.1), resume=True, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(tiny_config(data, run, steps=2, log_every=2), resume=True, progress=False)


def test_another_machine_gets_a_warning(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    train(tiny_config(data, run, steps=2), progress=False)
    monkeypatch.setattr(training.environment, "processor", lambda: "another processor")
    with pytest.warns(RuntimeWarning, match="last bits: cpu .* -> another processor"):
        resume(run)


def test_changed_data_are_refused(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_data(tmp_path)
    train(tiny_config(tmp_path, run, steps=2), progress=False)
    lines = (tmp_path / "train.csv").read_text().splitlines(keepends=True)
    (tmp_path / "train.csv").write_text("".join(lines[:-1]))
    with pytest.raises(ConfigError, match="11 clips now and had 12"):
        resume(run)


def test_results_do_not_depend_on_the_workers(data: Path, whole: Path, tmp_path: Path) -> None:
    train(tiny_config(data, tmp_path / "run", workers=2), progress=False)
    assert_same(tmp_path / "run", whole)
