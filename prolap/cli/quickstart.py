"""`prolap quickstart`: a small ProLAP and its deterministic baseline on embedded data, trained, evaluated and judged."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prolap.data.dataset import Split
    from prolap.training.config import Config

PLANNED = {"render": 60.0, "train": 180.0, "evaluate": 45.0}
"""Seconds that each phase takes at most on the two cores that the recipe was made for; past that the report says so."""


def add(commands: Any) -> None:
    """Add `quickstart` to the parser of the command line."""
    command = commands.add_parser(
        "quickstart",
        help="train and evaluate a small model and its baseline on embedded data",
        description="Train a small ProLAP and a deterministic baseline (SigLIP) on scenes of sampled sounds that come with "
        "the package, evaluate both, print a report and check the paper's claims. Takes about 4 minutes on 2 processor "
        "cores and needs no data. Writes its report into RUN/report (runs/quickstart/report). Started again, it "
        "resumes where it was stopped.",
        epilog="Options: --NAME VALUE, e.g. --run runs/other --seed 1; `prolap train --help` lists them.",
        allow_abbrev=False,
    )
    command.add_argument(
        "--dry-run",
        action="store_true",
        help="plan the scenes, take one training step of each model on a synthetic batch, and stop: it takes seconds, writes "
        "nothing, and shows that the installation is whole",
    )
    command.set_defaults(command=run)


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """The exit status, 0; SystemExit with 128 + the signal's number if training was stopped."""
    from prolap.training.config import load_config

    config = load_config("quickstart", overrides=rest)
    if arguments.dry_run:
        dry_run(config)
    else:
        train_and_compare(config)
    return 0


def dry_run(config: Config) -> None:
    """Read the soundfont, plan all scenes, and take a training step of both models on a synthetic batch. Writes nothing."""
    from prolap.data.scenes.plan import Universe, plan
    from prolap.data.scenes.soundfont import read_soundfont
    from prolap.training.synthetic import peak_memory

    data = config.data
    print(f"soundfont: {len(read_soundfont(data.soundfont)) / 1e6:.0f} MB")
    counts: dict[Split, int] = {"train": data.clips, "dev": data.dev_clips, "test": data.test_clips}
    for split, clips in counts.items():
        print(f"{split}: {len(plan(data.seed, split, clips, Universe())):,} scenes of {data.seconds:g} s planned")
    for name, each in (("ProLAP", config), ("its baseline", baseline_of(config))):
        peak = peak_memory(each, steps=1)["all"]
        print(
            f"{name}: one step on a synthetic batch of {config.batch_size} pairs, {peak / 1e9:.2f} GB of tensors at most"
        )
    print("Dry run: nothing was rendered, trained or written.")


def train_and_compare(config: Config, *, progress: bool = True) -> dict[str, Any]:
    """Train the model and its baseline in `config.run`, evaluate both on test, print and write the report.

    Returns the content of metrics.json. Called again with the same folder, it resumes what was stopped, and only
    evaluates what is trained already.
    """
    from prolap.data import open_data
    from prolap.evaluation.report import assess
    from prolap.utils.progress import Clock, shown, silent
    from prolap.weights.checkpoint import model_of, read, resolve

    clock, folder = Clock(), Path(config.run)
    _announce("Scenes: rendering notes, mixing clips, computing log-mels (kept in the user's cache)")
    with clock.phase("render"):
        for split in ("train", "dev", "test"):
            data = open_data(config, split, None if progress else silent)
    model_config, baseline_config = replace(config, run=f"{config.run}/model"), baseline_of(config)
    for each, text in ((model_config, "Training ProLAP"), (baseline_config, "Training its deterministic baseline")):
        _announce(text)
        with clock.phase("train"):
            _train(each, progress)
    _announce("Evaluating both on test")
    sources = {"model": read(resolve(Path(model_config.run))), "baseline": read(resolve(Path(baseline_config.run)))}
    model, baseline = map(model_of, sources.values())
    log = Path(model_config.run) / "train.jsonl"
    with shown(progress):
        content = assess(
            model, data, config, folder / "report", baseline=baseline, sources=sources, log=log, clock=clock
        )
    print(", ".join(f"{name} {seconds:.0f} s" for name, seconds in content["seconds"].items()))
    for sentence in slow_phases(content["seconds"]):
        print(sentence)
    return content


def baseline_of(config: Config) -> Config:
    """The same model, data, steps and seed, trained on the inner products of the means alone (SigLIP)."""
    from prolap.training.terms import loss_config

    model = replace(config.model, score="dot")
    return replace(config, model=model, loss=loss_config(), run=f"{config.run}/baseline")


def slow_phases(seconds: Mapping[str, float]) -> list[str]:
    """A sentence for each phase that took longer than planned."""
    return [
        f"{name} took {seconds[name]:.0f} s, planned were at most {planned:.0f} s: this machine is slower or busier "
        "than the two cores the recipe was made for. Nothing was left out."
        for name, planned in PLANNED.items()
        if seconds.get(name, 0.0) > planned
    ]


def _announce(text: str) -> None:
    print(f"{text} ...", file=sys.stderr, flush=True)


def _train(config: Config, progress: bool) -> None:
    """Train, or resume a run that was stopped; SystemExit after an interruption, as the shell expects of a signal."""
    from prolap.cli.train import SIGNAL_STATUS
    from prolap.training.runs import CONFIG
    from prolap.training.train import train

    result = train(config, resume=(Path(config.run) / CONFIG).exists(), progress=progress)
    if result.signal:
        print(f"stopped at step {result.step}; run the same command again to resume.", file=sys.stderr)
        raise SystemExit(SIGNAL_STATUS + result.signal)
