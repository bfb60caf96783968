"""`prolap evaluate`: measure a trained model, beside a baseline if one is named."""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

REPORT, NAME = "report", 80  # letters of a name made of --data


def add(commands: Any) -> None:
    """Add `evaluate` to the parser of the command line."""
    command = commands.add_parser(
        "evaluate",
        help="evaluate a trained model",
        description="Evaluate a run's best checkpoint: retrieval, uncertainty, inclusion test and audio traversal, each "
        "with its control. Prints a report and writes it, metrics.json with tables "
        "and plots, into a folder, which is replaced as a whole.",
        allow_abbrev=False,
    )
    command.add_argument("run", type=Path, metavar="RUN", help="folder of the run")
    command.add_argument(
        "--baseline", type=Path, metavar="RUN", help="run of a deterministic model to compare with, e.g. preset siglip"
    )
    command.add_argument("--which", choices=("best", "last"), default="best", help="checkpoint (default: best)")
    command.add_argument("--split", choices=("dev", "test"), default="test", help="split (default: test)")
    command.add_argument("--data", metavar="SPEC", help="another data set, named as data.train is")
    command.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="folder of the report (default: RUN/report, with --data RUN/report-SPLIT-NAME)",
    )
    command.add_argument(
        "--same-text",
        choices=("negative", "positive"),
        help="whether another clip with the same caption counts as wrong or right (default: the run's data.same_text, which is "
        "negative unless set, as in published figures)",
    )
    command.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda, cuda:1, ...")
    command.add_argument(
        "--workers", type=int, metavar="N", help="processes that read sounds (default: as in training)"
    )
    command.add_argument(
        "--plugins",
        action="extend",
        type=lambda text: text.split(","),
        default=[],
        metavar="MODULE",
        help="modules of your own that bring the score, encoder or layout, separated by commas",
    )
    command.add_argument("--quiet", action="store_true", help="show no progress")
    command.set_defaults(command=run)


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """The exit status, 0."""
    from prolap.config.options import ConfigError

    if rest:
        raise ConfigError(f"unknown option {rest[0]!r} on the command line; `prolap evaluate --help` lists all.")
    from prolap.config.loading import COMMAND_LINE, asking_for_plugins, import_plugins

    import_plugins(dict.fromkeys(arguments.plugins, COMMAND_LINE))
    from prolap.data import open_data
    from prolap.evaluation.embeddings import is_probabilistic
    from prolap.evaluation.report import assess
    from prolap.utils import environment
    from prolap.utils.progress import Clock, shown, silent
    from prolap.weights.checkpoint import model_of, read, resolve

    clock, progress = Clock(), not arguments.quiet
    checkpoint = read(resolve(arguments.run, arguments.which))
    model = model_of(checkpoint)
    sources, baseline = {"model": checkpoint}, None
    if arguments.baseline:
        sources["baseline"] = read(resolve(arguments.baseline, arguments.which))
        baseline = model_of(sources["baseline"])
        if is_probabilistic(baseline.config.model.score):
            raise ConfigError(
                f"baseline: {arguments.baseline} is probabilistic (model.score={baseline.config.model.score}); want a "
                "deterministic run, e.g. of preset siglip."
            )
    config = replace(model.config, device=arguments.device)
    if arguments.workers is not None:
        if arguments.workers < 0:
            raise ConfigError(f"workers: got {arguments.workers} on the command line, want 0 or more.")
        config = replace(config, workers=arguments.workers)
    environment.pick_device(config.device)  # raises before the data is opened
    if arguments.same_text:
        config = replace(config, data=replace(config.data, same_text=arguments.same_text))
    if arguments.data:
        config = replace(config, data=replace(config.data, **{arguments.split: arguments.data}))
    with asking_for_plugins(model.config.plugins):
        data = open_data(config, arguments.split, None if progress else silent)
    name = re.sub(r"\W+", "-", f"{arguments.split}-{arguments.data}").strip("-")[:NAME]
    folder = arguments.out or arguments.run / (f"{REPORT}-{name}" if arguments.data else REPORT)
    log = arguments.run / "train.jsonl"
    with shown(progress):
        assess(model, data, config, folder, baseline=baseline, sources=sources, log=log, clock=clock)
    return 0
