"""The command line: help, exit codes, one-sentence errors, and the way from train to metrics.json."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

import prolap
from prolap.cli.main import main
from prolap.config.loading import to_dict
from prolap.evaluation import report
from prolap.training.config import Config, load_config
from tests.prolap.tiny import as_words, tiny_options


@pytest.fixture(autouse=True)
def _restore(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(os.environ, "OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setenv("COLUMNS", "110")
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def error_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith("prolap: ")
    assert "Traceback" not in err
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize("words", [["--help"], ["quickstart", "--help"], ["evaluate", "--help"]])
def test_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 0
    out = capsys.readouterr().out
    for command in ("quickstart", "train", "evaluate") if words == ["--help"] else words[:1]:
        assert command in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"prolap {prolap.__version__}\n"


def test_train_help_lists_every_option_with_the_presets_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    from prolap.config.options import leaves

    assert main(["train", "--help", "--preset", "siglip"]) == 0
    out = capsys.readouterr().out
    for name in leaves(Config()):
        assert f"--{name.replace('_', '-')}" in out, name
    assert "Optimiser steps." in out
    assert "--resume" in out
    assert "(default: siglip)" in out
    assert "(default: 1e-05)" in out


def test_python_m_prolap_runs() -> None:
    done = subprocess.run([sys.executable, "-m", "prolap", "--version"], capture_output=True, text=True, timeout=60)
    assert done.stdout == f"prolap {prolap.__version__}\n"


def test_errors_are_one_sentence(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean optim.lr?" in error_of(["train", "--optim.lrr", "1"], capsys)
    assert "is not a run that can be resumed" in error_of(["train", "--resume", str(tmp_path)], capsys)
    assert "cannot read the configuration" in error_of(["train", "--config", str(tmp_path / "no.yaml")], capsys)
    assert "leave out --config" in error_of(["train", "--config", "a.yaml", "--resume", "b"], capsys)
    assert "neither a run folder" in error_of(["evaluate", str(tmp_path)], capsys)
    assert "unknown option '--baselin'" in error_of(["evaluate", str(tmp_path), "--baselin", "a"], capsys)
    words = tiny_options(data, tmp_path / "run", model__audio="big")
    assert "model.audio: got 'big'" in error_of(["train", "--quiet", *as_words(words)], capsys)
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2


def test_bugs_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        int("not a number")

    monkeypatch.setattr("prolap.training.config.load_config", broken)
    with pytest.raises(ValueError, match="invalid literal"):
        main(["train"])


def test_train_then_evaluate_with_a_baseline(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, preset in (("run", "prolap+tiny"), ("baseline", "siglip+tiny")):
        words = as_words(tiny_options(data, tmp_path / name, preset=preset, steps=3))
        assert main(["train", "--quiet", *words]) == 0
    assert f"{tmp_path / 'baseline'}: 3 steps in " in capsys.readouterr().out
    assert "is not empty" in error_of(["train", *words], capsys)
    assert main(["train", "--quiet", "--resume", str(tmp_path / "baseline")]) == 0
    assert "steps (was 3, now 4)" in error_of(["train", "--resume", str(tmp_path / "baseline"), "--steps", "4"], capsys)
    assert main(["evaluate", str(tmp_path / "run"), "--baseline", str(tmp_path / "baseline")]) == 0
    told = capsys.readouterr()
    assert "Retrieval" in told.out
    assert "Embedding 8 sounds ..." in told.err
    found = json.loads((tmp_path / "run" / "report" / "metrics.json").read_text())
    assert found["schema_version"] == report.SCHEMA_VERSION
    assert found["config"]["batch_size"] == 4
    assert found["retrieval"]["n"] == 8
    assert found["retrieval"]["same_text"]["positive"] is False
    assert 0 <= found["baseline"]["retrieval"]["t2a"]["r1"] <= 1
    assert found["claims"]
    assert {"name", "value", "control", "threshold", "passed"} <= found["claims"][0].keys()
    other = ["--data", str(data / "train.csv"), "--out", str(tmp_path / "other"), "--same-text=positive"]
    assert main(["evaluate", str(tmp_path / "run"), "--device=cpu", "--workers=2", "--quiet", *other]) == 0
    assert not capsys.readouterr().err
    found = json.loads((tmp_path / "other" / "metrics.json").read_text())
    assert (found["retrieval"]["n"], found["config"]["data"]["test"]) == (12, str(data / "train.csv"))
    assert found["versions"]["torch"] == version("torch")
    assert found["versions"]["device"] == "cpu"
    assert found["retrieval"]["same_text"]["positive"] is True
    assert found["config"]["data"]["same_text"] == "positive"
    assert found["seconds"]["evaluate"] > 0
    assert "device: got 'tpu9'" in error_of(["evaluate", str(tmp_path / "run"), "--device", "tpu9"], capsys)
    assert "workers: got -1" in error_of(["evaluate", str(tmp_path / "run"), "--workers", "-1"], capsys)


def test_interrupted_training_says_how_to_go_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import signal

    import prolap.training.train as training

    losses = training.training_losses

    def interrupting(*arguments: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return losses(*arguments)

    monkeypatch.setattr(training, "training_losses", interrupting)
    words = as_words(tiny_options(data, tmp_path / "run", optim__accumulate=1))
    assert main(["train", "--quiet", *words]) == 130
    assert f"stopped at step 1; resume with `prolap train --resume {tmp_path / 'run'}`." in capsys.readouterr().err


def test_quickstart_gets_its_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Config] = []
    monkeypatch.setattr("prolap.cli.quickstart.train_and_compare", seen.append)
    assert main(["quickstart", "--seed", "3"]) == 0
    assert seen == [load_config("quickstart", overrides=["seed=3"])]


def test_metrics_are_strict_json(tmp_path: Path) -> None:
    content = report.document(
        to_dict(load_config()), torch.device("cpu"), {"retrieval": {"n": 3}}, [{"name": "a"}], {"total": 1.0}
    )
    report.write(tmp_path / "metrics.json", content)
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found["config"] == json.loads(json.dumps(to_dict(load_config())))
    assert (found["seed"], found["retrieval"], found["claims"]) == (0, {"n": 3}, [{"name": "a"}])
    with pytest.raises(ValueError, match=r"retrieval.t2a\[1\] is nan"):
        report.write(tmp_path / "bad.json", {"retrieval": {"t2a": [0.5, float("nan")]}})
    assert not (tmp_path / "bad.json").exists()


def test_both_packages_have_one_version() -> None:
    import prolap_kernels

    assert prolap.__version__ == prolap_kernels.__version__


@pytest.mark.parametrize("command", ["train", "evaluate", "data", "memory", "quickstart"])
def test_help_on_a_terminal_of_ascii(command: str) -> None:
    ascii_only = os.environ | {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    words = [sys.executable, "-m", "prolap", command, "--help"]
    done = subprocess.run(words, env=ascii_only, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert b"usage" in done.stdout.lower()


def test_the_names_at_the_top_load_when_they_are_used() -> None:
    code = "import sys, prolap; assert 'torch' not in sys.modules; print(prolap.ProLAP.__name__, prolap.load_model.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["ProLAP", "load_model"], done.stderr
