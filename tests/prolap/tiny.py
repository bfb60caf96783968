"""A data set of a few short tones on disk, and a configuration that trains on it in a fraction of a second."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from prolap.training.config import Config, load_config

RATE = 16_000
CLIPS = 12


def write_data(folder: Path) -> None:
    """`train.csv` of 12 tones of 0.3 s and `dev.csv` with the first 4, each with a caption and a chain."""
    rows = ["audio,caption,chain"]
    for number in range(CLIPS):
        time = np.arange(int(0.3 * RATE)) / RATE
        wave = 0.3 * np.sin(2 * np.pi * 150 * (1 + number) * time) * np.exp(-3 * (number % 3) * time)
        soundfile.write(folder / f"{number}.wav", wave.astype(np.float32), RATE)
        kind, place = ("low", "high")[number > 5], ("long", "short", "dying")[number % 3]
        chain = f"sound|a {kind} tone|a {place} {kind} tone|a {place} {kind} tone number {number}"
        rows.append(f"{number}.wav,tone {number} is {place} and {kind},{chain}")
    (folder / "train.csv").write_text("\n".join(rows) + "\n")
    (folder / "dev.csv").write_text("\n".join(rows[:5]) + "\n")
    (folder / "test.csv").write_text("\n".join(rows[:9]) + "\n")


def tiny_options(folder: Path, run: Path, **changes: Any) -> dict[str, Any]:
    """Options of a run on that data: 8 steps of 2 micro-batches of 4, all loss terms on."""
    options = {
        "preset": "prolap-v1+tiny",
        "run": str(run),
        "threads": 1,
        "batch_size": 4,
        "steps": 8,
        "log_every": 1,
        "eval_every": 3,
        "checkpoint_every": 2,
        "data.train": str(folder / "train.csv"),
        "data.dev": str(folder / "dev.csv"),
        "data.test": str(folder / "test.csv"),
        "data.seconds": 0.3,
        "data.overlap": "ignore",  # dev and test are training clips
        "mask.share": 0.5,
        "model.width": 16,
        "model.dim": 8,
        "model.dropout": 0.1,
        "optim.lr": 1e-2,
        "optim.scale_lr": 1e-5,
        "optim.warmup": 0.2,
        "optim.clip": 1.0,
        "optim.accumulate": 2,
        "safety.min_spread": 0.0,
    }
    return options | {name.replace("__", "."): value for name, value in changes.items()}


def tiny_config(folder: Path, run: Path, **changes: Any) -> Config:
    """The same as a Config; `optim__lr=...` changes `optim.lr`."""
    return load_config(overrides=tiny_options(folder, run, **changes))


def as_words(options: dict[str, Any]) -> Sequence[str]:
    """The options as command-line words."""
    return [f"--{name}={value}" for name, value in options.items()]
