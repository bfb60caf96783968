"""Evaluate a run and leave what was found: the printed report, metrics.json and the plots."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prolap.config import BaseConfig
from prolap.data import AudioTextData
from prolap.evaluation import claims, metrics, plots
from prolap.evaluation.protocol import evaluate_full
from prolap.evaluation.report import print_report
from prolap.models.model import ProLAP
from prolap.utils import environment
from prolap.utils.progress import shown


@dataclass(frozen=True)
class Assessed:
    """A model, its deterministic baseline if there is one, the data to evaluate on and where the result goes."""

    model: ProLAP
    baseline: ProLAP | None
    data: AudioTextData
    config: BaseConfig
    path: Path
    """metrics.json; the plots stand beside it."""
    log: Path | None = None
    """train.jsonl of the run, for the plot of the loss terms."""
    progress: bool = True


def assess(what: Assessed, seconds: dict[str, float], started: float) -> dict[str, Any]:
    """Evaluate, judge, write and print; returns the content of metrics.json.

    seconds: of the phases before, by name; `evaluate` and `total`, since `started` (time.perf_counter), are added.
    """
    began = time.perf_counter()
    config = what.config
    device = environment.pick_device(config.device)
    models = [model and model.to(device) for model in (what.model, what.baseline)]
    with shown(what.progress):
        found = evaluate_full(
            models[0], what.data, baseline=models[1], seed=config.seed, mask=config.mask, workers=config.workers
        )
    judged = claims.claims(found.metrics)
    folder = what.path.parent
    log = what.log if what.log is not None and what.log.is_file() else None
    plotted = plots.write_plots(found.metrics, found.evidence, folder, log=log)
    now = time.perf_counter()
    seconds |= {"evaluate": now - began, "total": now - started}
    content = metrics.document(config, device, found.metrics, claims.as_json(judged), seconds)
    metrics.write(what.path, content)
    print_report(found.metrics, judged)
    print(f"written: {what.path}" + "".join(f", {path.name}" for path in plotted))
    return content
