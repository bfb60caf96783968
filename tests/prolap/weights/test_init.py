"""A run that starts from other weights: a run of ours, or a public file; and that it goes on with its own after a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from prolap.config.options import ConfigError
from prolap.training.train import train
from prolap.weights.checkpoint import CheckpointError, load_model
from prolap.weights.initial import FILE, describe, first_model, open_init
from tests.prolap.public_models import MICRO_MSCLAP, small_msclap
from tests.prolap.tiny import tiny_config

SHORT: dict[str, Any] = {"steps": 2, "eval_every": 2, "checkpoint_every": 1, "optim__accumulate": 1}


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A deterministic run."""
    run = tmp_path_factory.mktemp("init") / "baseline"
    train(tiny_config(data, run, preset="siglip+tiny", **SHORT), progress=False)
    return run


def test_a_run_starts_from_anothers_weights_and_words(data: Path, baseline: Path, tmp_path: Path) -> None:
    config = tiny_config(data, tmp_path / "run", init=str(baseline), **SHORT)
    start, trained = open_init(config), load_model(baseline)
    assert start is not None
    model, report = first_model(config, None, start, ["words that the baseline never saw"], config.trains_uncertainty)
    assert report is not None
    assert model.vocabulary.to_json() == trained.vocabulary.to_json()
    state, theirs = model.state_dict(), trained.state_dict()
    assert set(report.new) == {name for name in state if ".logvar." in name}, "the baseline did not train them"
    assert all(torch.equal(state[name], theirs[name]) for name in report.mapped)
    assert report.mapped.keys() | set(report.new) == state.keys()
    assert "parameters" in describe(model, report)


def test_the_report_is_in_the_run_and_a_resumed_run_needs_no_init(
    data: Path, baseline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = tmp_path / "baseline"
    baseline_files = [path for path in baseline.rglob("*") if path.is_file()]
    for path in baseline_files:
        (moved / path.relative_to(baseline)).parent.mkdir(parents=True, exist_ok=True)
        (moved / path.relative_to(baseline)).write_bytes(path.read_bytes())
    options = {"init": str(moved), **SHORT, "steps": 4}
    train(tiny_config(data, tmp_path / "whole", **options), progress=False)
    report = json.loads((tmp_path / "whole" / FILE).read_text())
    assert report["format"] == "prolap"
    assert report["mapped"]

    from prolap.training.train import Trainer

    update = Trainer.update

    def stop_at_third(self: Trainer, stream: Any) -> Any:
        if self.step == 2:
            raise KeyboardInterrupt
        return update(self, stream)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Trainer, "update", stop_at_third)
        train(tiny_config(data, tmp_path / "parts", **options), progress=False)
    for path in sorted(moved.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    moved.rmdir()
    train(tiny_config(data, tmp_path / "parts", **options), resume=True, progress=False)
    whole, parts = (load_model(tmp_path / name, "last").state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_public_file_trains_on(data: Path, tmp_path: Path) -> None:
    file = small_msclap(tmp_path / "clap.pth")
    public = dict(word.split("=", 1) for word in MICRO_MSCLAP)
    changes = {name.replace(".", "__"): value for name, value in public.items()}
    options = {"preset": "prolap", "init": str(file), **SHORT, **changes}
    train(tiny_config(data, tmp_path / "run", **options), progress=False)
    report = json.loads((tmp_path / "run" / FILE).read_text())
    assert report["format"] == "msclap-2023"
    assert "audio_head.logvar.0.weight" in report["new"]
    assert all(report["dropped"].values())


def test_no_steps_make_a_run_of_the_starting_weights(data: Path, baseline: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = train(tiny_config(data, run, init=str(baseline), **SHORT | {"steps": 0}), progress=False)
    assert (result.step, result.stopped, result.best_step) == (0, "finished", 0)
    start, theirs = load_model(run), load_model(baseline).state_dict()
    mapped = json.loads((run / FILE).read_text())["mapped"]
    assert mapped
    assert all(torch.equal(start.state_dict()[name], theirs[name]) for name in mapped)
    again = train(tiny_config(data, run, init=str(baseline), **SHORT | {"steps": 0}), resume=True, progress=False)
    assert (again.step, again.best_value) == (0, result.best_value)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"init": "nowhere.pth"}, ConfigError, "init: nowhere.pth is not there"),
        ({"init_format": "msclap-2023"}, ConfigError, "init_format: got msclap-2023 without init"),
        ({"model__dim": 4}, ConfigError, r"needs model.dim=8 \(now 4\)"),
        ({"init_format": "hf-clap"}, CheckpointError, "init: .*"),
    ],
)
def test_what_does_not_fit_is_said_before_a_run_is_made(
    data: Path, baseline: Path, tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    options = {"init": None if changes.get("init_format") == "msclap-2023" else str(baseline), **SHORT} | changes
    with pytest.raises(error, match=message):
        train(tiny_config(data, tmp_path / "run", **options), progress=False)
    assert not (tmp_path / "run").exists()
