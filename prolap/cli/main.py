"""The command line: `prolap quickstart`, `prolap train`, `prolap evaluate`, `prolap memory`, `prolap data check`."""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import prolap
from prolap.cli import data as data_command
from prolap.cli import memory as memory_command

_TRAIN = """Train a model. Options build on a preset; those of a file come over it, those given here over both.

  prolap train --preset siglip --run runs/siglip
  prolap train --config my.yaml --optim.lr 1e-4
  prolap train --resume runs/siglip

--config FILE is a YAML or TOML file with the options below, nested by section. --resume RUN goes on with the run in that
folder, to the same weights as if it had not been interrupted. --quiet shows no progress."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 2 after an error, 130 or 143 after Ctrl-C or SIGTERM."""
    # a thread that waits in a busy loop starves the others of a busy machine
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is first imported, which is later than here
    words = list(sys.argv[1:] if argv is None else argv)
    arguments, rest = _parser().parse_known_args(words)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            status: int = arguments.action(arguments, rest)
            return status
    except KeyboardInterrupt:
        print("prolap: interrupted.", file=sys.stderr)
        return 130
    except Exception as error:
        if not _is_explained(error) or os.environ.get("PROLAP_TRACEBACK"):
            raise
        print(f"prolap: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prolap",
        description="Trainer for probabilistic language-audio pre-training.",
        epilog="PROLAP_TRACEBACK=1 in the environment shows where an error came from.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"prolap {prolap.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    quick = commands.add_parser(
        "quickstart",
        help="train and evaluate a small model and its deterministic baseline on embedded data",
        description="Train a small model and its deterministic baseline on embedded scenes of sampled sounds, evaluate both "
        "and check the paper's claims; about 4 minutes on 2 processor cores. Options as of `prolap train`.",
        epilog="Options: --NAME VALUE, e.g. --run runs/other --seed 1; `prolap train --help` lists them.",
        allow_abbrev=False,
    )
    quick.set_defaults(action=_quickstart)
    train = commands.add_parser("train", help="train a model on your data", add_help=False, allow_abbrev=False)
    train.add_argument("-h", "--help", action="store_true")
    train.add_argument("--config")
    train.add_argument("--resume")
    train.add_argument("--quiet", action="store_true")
    train.set_defaults(action=_train)
    evaluate = commands.add_parser(
        "evaluate",
        help="evaluate a trained model",
        description="Evaluate a run's best checkpoint, print a report and write metrics.json into the run's folder.",
        allow_abbrev=False,
    )
    evaluate.add_argument("run", type=Path, metavar="RUN", help="folder of the run")
    evaluate.add_argument(
        "--baseline", type=Path, metavar="RUN", help="run of a deterministic baseline to compare with"
    )
    evaluate.add_argument("--which", choices=("best", "last"), default="best", help="checkpoint (default: best)")
    evaluate.add_argument("--split", choices=("dev", "test"), default="test", help="data (default: test)")
    evaluate.add_argument("--data", metavar="SPEC", help="another data set, named as data.train is")
    evaluate.add_argument("--out", type=Path, help="file to write instead of RUN/metrics.json")
    evaluate.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda, cuda:1, ...")
    evaluate.add_argument("--workers", type=int, help="processes that read sounds (default: as in training)")
    evaluate.add_argument("--quiet", action="store_true", help="no progress")
    evaluate.set_defaults(action=_evaluate)
    memory_command.add(commands)
    data_command.add(commands)
    return parser


def _quickstart(arguments: argparse.Namespace, rest: list[str]) -> int:
    from prolap.training.config import load_config

    config = load_config("quickstart", overrides=rest)
    from prolap.cli import quickstart

    quickstart.run(config)
    return 0


def _train(arguments: argparse.Namespace, rest: list[str]) -> int:
    from prolap.config.options import ConfigError
    from prolap.training.config import load_config

    if arguments.help:
        return _train_help(rest)
    if arguments.resume and arguments.config:
        raise ConfigError("--resume goes on with the run's own configuration; leave out --config.")
    if arguments.resume:
        from prolap.training.runs import CONFIG, load_run_config

        load_run_config(Path(arguments.resume))  # says so if it is no run
        words = [*rest, f"--run={arguments.resume}"]
        config = load_config(file=Path(arguments.resume) / CONFIG, overrides=words)
    else:
        config = load_config(file=arguments.config, overrides=rest)
    from prolap.training.train import train

    result = train(config, resume=bool(arguments.resume), progress=not arguments.quiet)
    if result.signal:
        print(f"stopped at step {result.step}; go on with `prolap train --resume {result.run}`.", file=sys.stderr)
        return 128 + result.signal
    best = f", best {config.best_metric} {result.best_value:.4f} at step {result.best_step}" if result.best_step else ""
    early = " (no new best for a while)" if result.stopped == "early" else ""
    print(f"{result.run}: {result.step} steps{early} in {result.seconds:.0f} s{best}")
    return 0


def _train_help(rest: list[str]) -> int:
    """All options with the defaults of the preset that is named, if one is."""
    try:
        import tyro
    except ImportError as error:
        raise ImportError("the list of options needs the package tyro: pip install prolap[train]") from error
    from prolap.training.config import Config, load_config

    plain = (tyro.conf.FlagConversionOff,)
    try:
        tyro.cli(
            Config,
            default=load_config(overrides=rest),
            args=["--help"],
            prog="prolap train",
            description=_TRAIN,
            config=plain,
        )
    except SystemExit as done:
        return int(done.code or 0)
    return 0


def _evaluate(arguments: argparse.Namespace, rest: list[str]) -> int:
    from prolap.config.options import ConfigError

    if rest:
        raise ConfigError(f"unknown option {rest[0]!r} on the command line; `prolap evaluate --help` lists all.")
    started = time.perf_counter()
    from prolap.data import open_data
    from prolap.evaluation.assess import Assessed, assess
    from prolap.utils import environment
    from prolap.utils.progress import data_progress
    from prolap.weights.checkpoint import load_model

    model = load_model(arguments.run, arguments.which)
    baseline = load_model(arguments.baseline, arguments.which) if arguments.baseline else None
    config = replace(model.config, device=arguments.device)
    if arguments.workers is not None:
        if arguments.workers < 0:
            raise ConfigError(f"workers: got {arguments.workers} on the command line, want 0 or more.")
        config = replace(config, workers=arguments.workers)
    environment.pick_device(config.device)  # says at once if it is none
    if arguments.data:
        config = replace(config, data=replace(config.data, **{arguments.split: arguments.data}))
    data = open_data(config, arguments.split, data_progress(not arguments.quiet))
    path = arguments.out or arguments.run / "metrics.json"
    log = arguments.run / "train.jsonl"
    assess(Assessed(model, baseline, data, config, path, log, progress=not arguments.quiet), {}, started)
    return 0


def _is_explained(error: BaseException) -> bool:
    """Whether the message is a sentence of ours or the system's, and not the trace of a bug."""
    if isinstance(error, OSError):
        return True
    if not isinstance(error, ValueError | TypeError | RuntimeError | ImportError):
        return False
    frames = list(traceback.walk_tb(error.__traceback__))
    return bool(frames) and str(frames[-1][0].f_globals.get("__name__", "")).split(".")[0] in (
        "prolap",
        "prolap_kernels",
    )


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    print(f"prolap: warning: {message}", file=sys.stderr)
