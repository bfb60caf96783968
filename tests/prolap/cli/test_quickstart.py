"""The main job from end to end, small: everything it writes is there, and a second call goes on instead of starting over."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from prolap.cli import quickstart
from prolap.cli.main import main
from prolap.config.loading import to_dict
from prolap.evaluation import report
from prolap.training.config import Config, load_config

SECTIONS = {
    "retrieval.t2a": ("r1", "r5", "r10", "map10"),
    "retrieval.a2t": ("r1", "r5", "r10", "map10"),
    "retrieval": ("n", "chance_r1", "unseen_sources"),
    "baseline.retrieval.t2a": ("r1", "map10"),
    "uncertainty": (
        "length_spearman", "length_spearman_random_words", "level_partial", "wordy_general_rate", "by_level"
    ),
    "inclusion.audio": ("direction", "control", "location", "location_baseline"),
    "inclusion.text": ("direction", "control", "location", "location_baseline"),
    "traversal.empty": ("precision", "recall", "chance", "recall_by_level"),
    "traversal.label_free": ("precision", "recall", "chance", "recall_by_level"),
    "baseline.traversal.oracle": ("precision", "recall", "chance", "recall_by_level"),
    "seconds": ("render", "train", "evaluate", "total"),
}  # fmt: skip


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, scene_cache: Path) -> Config:
    size = {"data.clips": 200, "data.dev_clips": 40, "data.test_clips": 60, "data.cache": str(scene_cache)}
    short = {"steps": 6, "batch_size": 32, "eval_every": 6, "checkpoint_every": 6, "model.width": 16, "model.dim": 8}
    run = {"run": str(tmp_path_factory.mktemp("runs") / "quick"), "tensorboard": False}
    return load_config("quickstart", overrides=size | short | run)


@pytest.fixture(scope="module")
def content(config: Config) -> dict:
    return quickstart.train_and_compare(config, progress=False)


def test_metrics_hold_the_schema_and_every_null_has_its_reason(config: Config, content: dict) -> None:
    assert json.loads((Path(config.run) / "report" / "metrics.json").read_text()) == content
    assert content["schema_version"] == report.SCHEMA_VERSION
    assert content["seed"] == config.seed
    for path, names in SECTIONS.items():
        section = content
        for part in path.split("."):
            section = section[part]
        for name in names:
            assert name in section, f"{path}.{name}"
            assert section[name] is not None or any(r.startswith(path) for r in content["reasons"])
    assert content["retrieval"]["n"] == 60
    assert 0 <= content["retrieval"]["t2a"]["r1"] <= 1
    assert len(content["uncertainty"]["by_level"]) == 4
    assert {"name", "value", "control", "threshold", "passed"} <= content["claims"][0].keys()
    assert content["seconds"]["total"] >= content["seconds"]["train"] > 0


def test_plots_lie_beside_the_metrics(config: Config, content: dict) -> None:
    for name in ("uncertainty", "masking", "traversal", "losses"):
        assert (Path(config.run) / "report" / f"{name}.png").stat().st_size > 10_000


def test_the_baseline_differs_in_its_losses_alone(config: Config) -> None:
    ours, baseline = to_dict(config), to_dict(quickstart.baseline_of(config))
    changed = {key for key in ours if ours[key] != baseline[key]}
    assert changed == {"loss", "model", "run"}
    assert baseline["model"] == ours["model"] | {"score": "dot"}
    assert all(baseline["loss"][name]["weight"] == 0 for name in ("cross_inclusion", "hierarchy", "vib", "repulsion"))


def test_a_second_call_trains_nothing_again(config: Config, content: dict, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = next((Path(config.run) / "model" / "checkpoints").glob("step-*/model.safetensors"))
    written = checkpoint.stat().st_mtime_ns
    again = quickstart.train_and_compare(config, progress=False)
    assert checkpoint.stat().st_mtime_ns == written
    assert again["retrieval"] == content["retrieval"]
    assert "claims passed" in capsys.readouterr().out


def test_a_dry_run_plans_and_steps_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert main(["quickstart", "--dry-run", "--batch_size", "8", "--data.clips", "30"]) == 0
    printed = capsys.readouterr().out
    assert "train: 30 scenes" in printed
    assert printed.count("one step on a synthetic batch of 8 pairs") == 2
    assert not list(tmp_path.iterdir())


def test_a_slow_phase_is_named() -> None:
    seconds = {"render": quickstart.PLANNED["render"] + 1, "train": 1.0, "total": 500.0}
    (sentence,) = quickstart.slow_phases(seconds)
    assert sentence.startswith("render took 61 s, planned were at most 60 s")
    assert "Nothing was left out" in sentence


def test_an_interruption_ends_as_the_shell_expects(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = SimpleNamespace(signal=15, step=3)
    monkeypatch.setattr("prolap.training.train.train", lambda *_, **__: stopped)
    with pytest.raises(SystemExit) as caught:
        quickstart.train_and_compare(config, progress=False)
    assert caught.value.code == 143
