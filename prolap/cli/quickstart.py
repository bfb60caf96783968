"""The main job on embedded data: a small ProLAP and its deterministic baseline, trained, evaluated and held to the claims."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prolap.training.config import Config
from prolap.training.terms import loss_config

PLANNED = {"render": 60.0, "train": 180.0, "evaluate": 45.0}
"""Seconds that each phase takes at most on the two cores that the recipe was made for; past that the report says so."""


@dataclass
class Clock:
    """Seconds by phase."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str, what: str) -> Iterator[None]:
        print(f"{what} ...", file=sys.stderr, flush=True)
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def slow(self) -> list[str]:
        """A sentence for each phase that took longer than planned."""
        return [
            f"{name} took {self.seconds[name]:.0f} s, planned were at most {planned:.0f} s: this machine is slower or busier "
            "than the two cores the recipe was made for. Nothing was left out."
            for name, planned in PLANNED.items()
            if self.seconds.get(name, 0.0) > planned
        ]


def baseline_of(config: Config) -> Config:
    """The same model, data, steps and seed, trained on the inner products of the means alone (SigLIP)."""
    model = replace(config.model, score="dot")
    return replace(config, model=model, loss=loss_config(), run=f"{config.run}/baseline")


def run(config: Config, *, progress: bool = True) -> dict[str, Any]:
    """Render, train both, evaluate on test, print the report, write metrics.json and plots; returns what it wrote.

    Started again in the same folder, it goes on where it was stopped, and only evaluates what is trained already.
    """
    from prolap.data import open_data
    from prolap.evaluation.assess import Assessed, assess
    from prolap.weights.checkpoint import load_model

    started, clock, folder = time.perf_counter(), Clock(), Path(config.run)
    with clock.phase("render", "Scenes: rendering notes, mixing clips, computing log-mels (kept in the user's cache)"):
        for split in ("train", "dev"):
            open_data(config, split)
        data = open_data(config, "test")
    ours, baseline = replace(config, run=f"{config.run}/model"), baseline_of(config)
    for each, what in ((ours, "Training ProLAP"), (baseline, "Training its deterministic baseline")):
        with clock.phase("train", what):
            _train(each, progress)
    print("Evaluating both on test ...", file=sys.stderr, flush=True)
    assessed = Assessed(
        load_model(ours.run),
        load_model(baseline.run),
        data,
        config,
        folder / "metrics.json",
        Path(ours.run) / "train.jsonl",
        progress,
    )
    content = assess(assessed, clock.seconds, started)
    print(", ".join(f"{name} {seconds:.0f} s" for name, seconds in clock.seconds.items()))
    for sentence in clock.slow():
        print(sentence)
    return content


def _train(config: Config, progress: bool) -> None:
    """Train, or go on with a run that was stopped; SystemExit after an interruption, as the shell expects of a signal."""
    from prolap.training.train import train

    result = train(config, resume=Path(config.run).exists(), progress=progress)
    if result.signal:
        print(f"stopped at step {result.step}; run the same command again to go on.", file=sys.stderr)
        raise SystemExit(128 + result.signal)
