"""`prolap train`: train a model, or resume a run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

SIGNAL_STATUS = 128  # a shell reports a program that a signal ended by 128 + the signal's number

_DESCRIPTION = """Train a model. Options build on a preset; a file overrides the preset, the command line overrides both.

  prolap train --preset siglip --run runs/siglip
  prolap train --config my.yaml --optim.lr 1e-4
  prolap train --resume runs/siglip

  --config FILE  A YAML or TOML file with the options below, nested by section.
  --resume RUN   Continue the run in this folder; the weights end as if it had not been interrupted.
  --extend       With --resume: train on to a larger --steps or --epochs; the schedule is that of the new length.
  --wait         Wait while another process writes into the run folder, e.g. a job that is being requeued.
  --quiet        Show no progress."""


def add(commands: Any) -> None:
    """Add `train` to the parser of the command line."""
    command = commands.add_parser("train", help="train a model on your data", add_help=False, allow_abbrev=False)
    command.add_argument("-h", "--help", action="store_true")
    command.add_argument("--config")
    command.add_argument("--resume")
    for switch in ("--extend", "--wait", "--quiet"):
        command.add_argument(switch, action="store_true")
    command.set_defaults(command=run)


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """The exit status: 0, or 128 + the number of the signal that stopped training."""
    from prolap.config.options import ConfigError
    from prolap.training.config import load_config

    if arguments.help:
        return _help(arguments.config, rest)
    if arguments.resume and arguments.config:
        raise ConfigError("--resume takes the configuration of the run; leave out --config.")
    if arguments.resume:
        from prolap.training.runs import CONFIG, load_run_config

        load_run_config(Path(arguments.resume))  # raises if the folder holds no run
        words = [*rest, f"--run={arguments.resume}"]
        config = load_config(file=Path(arguments.resume) / CONFIG, overrides=words)
    else:
        config = load_config(file=arguments.config, overrides=rest)
    from prolap.training.train import train

    result = train(
        config,
        resume=bool(arguments.resume),
        extend=arguments.extend,
        wait=arguments.wait,
        progress=not arguments.quiet,
    )
    if result.signal:
        print(f"stopped at step {result.step}; resume with `prolap train --resume {result.run}`.", file=sys.stderr)
        return SIGNAL_STATUS + result.signal
    best = f", best {config.best_metric} {result.best_value:.4f} at step {result.best_step}" if result.best_step else ""
    early = " (no new best for a while)" if result.stopped == "early" else ""
    print(f"{result.run}: {result.step} steps{early} in {result.seconds:.0f} s{best}")
    return 0


def _help(file: str | None, rest: list[str]) -> int:
    """Print all options, with the defaults of the preset and file that are named, if any are."""
    from prolap.training.config import Config, load_config
    from prolap.utils.environment import optional

    tyro = optional("tyro", "the list of options needs the package tyro")
    try:
        tyro.cli(
            Config,
            default=load_config(file=file, overrides=rest),
            args=["--help"],
            prog="prolap train",
            description=_DESCRIPTION,
            config=(tyro.conf.FlagConversionOff,),
        )
    except SystemExit as done:
        return int(done.code or 0)
    return 0
