"""The report of an evaluation: a folder with metrics.json, tables and plots, replaced as a whole; and the printed tables."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from prolap.config import BaseConfig
from prolap.config.loading import differences, to_dict
from prolap.data import AudioTextData
from prolap.evaluation.claims import Claim, claims, figure
from prolap.evaluation.plots import write_plots
from prolap.evaluation.protocol import evaluate
from prolap.models.model import ProLAP
from prolap.utils import environment
from prolap.utils.files import atomic_folder, write_text
from prolap.utils.progress import Clock
from prolap.weights.checkpoint import Checkpoint

METRICS = "metrics.json"
SCHEMA_VERSION = 3
"""Of metrics.json; goes up when a key changes its name or meaning."""
DIRECTIONS = {"t2a": "T->A", "a2t": "A->T"}
COLUMNS = {"r1": "R@1", "r5": "R@5", "r10": "R@10", "map10": "mAP@10"}
_COMPARED = (
    "data.",
    "model.audio",
    "model.text",
    "model.width",
    "model.dim",
    "model.mean_head",
    "init",
    "batch_size",
    "seed",
)
"""How the names of options begin that model and baseline should share; `model.score` and the loss are what differs."""
_NOT_COMPARED = ("data.cache", "data.cache_features", "data.test", "data.overlap", "data.same_text")
_MARK = {True: "[green]passed[/green]", False: "[red]failed[/red]", None: "not measured"}


def assess(
    model: ProLAP,
    data: AudioTextData,
    config: BaseConfig,
    folder: Path,
    *,
    baseline: ProLAP | None = None,
    sources: Mapping[str, Checkpoint] | None = None,
    log: Path | None = None,
    clock: Clock | None = None,
) -> dict[str, Any]:
    """Evaluate, check the claims, print the report and write it; returns the content of metrics.json.

    config: sets device, seed, mask and workers. folder: the report, replaced as a whole. sources: the checkpoints of `model` and
    `baseline`, which metrics.json names. log: train.jsonl of the run, for the plot of the loss terms. clock: has timed the phases
    before and times `evaluate`.
    """
    clock, sources = clock or Clock(), sources or {}
    different = unlike(model, baseline, *(source.step for source in sources.values())) if baseline else []
    if different:
        warnings.warn(f"baseline: it was not trained like the model: {'; '.join(different)}.", stacklevel=2)
    device = environment.pick_device(config.device)
    with clock.phase("evaluate"):
        evaluation = evaluate(
            model.to(device),
            data,
            baseline=baseline and baseline.to(device),
            seed=config.seed,
            mask=config.mask,
            workers=config.workers,
            same_text=config.data.same_text,
        )
        metrics, listed = evaluation.metrics, claims(evaluation.metrics)
    trained = sources["model"].state["config"] if sources else {}  # with the terms of the loss, which `config` may lack
    options = {**trained, **to_dict(config)}
    log = log if log is not None and log.is_file() else None
    with atomic_folder(folder, METRICS) as new:
        with clock.phase("evaluate"):
            write_plots(metrics, evaluation.evidence, new, log=log)
        content = document(options, device, metrics, [asdict(claim) for claim in listed], clock.seconds())
        content["sources"] = {name: origin(checkpoint) for name, checkpoint in sources.items()}
        content["baseline_differs"] = different
        write(new / METRICS, content)
        write_tables(metrics, listed, new)
        names = sorted(file.name for file in new.iterdir())
    print_report(metrics, listed)
    print(f"written: {folder} ({', '.join(names)})")
    return content


def origin(checkpoint: Checkpoint) -> dict[str, Any]:
    """What a model is: its run, checkpoint, step, and the fingerprints of its weights and of its options."""
    return {
        "run": checkpoint.state["config"]["run"],
        "checkpoint": str(checkpoint.path),
        "step": checkpoint.step,
        "sha256": checkpoint.state["files"]["model.safetensors"],
        "config_sha256": hashlib.sha256(json.dumps(checkpoint.state["config"], sort_keys=True).encode()).hexdigest(),
    }


def unlike(model: ProLAP, baseline: ProLAP, *steps: int) -> list[str]:
    """What else than score and loss tells a baseline from the model: encoders, data, steps taken; a phrase for each."""
    phrases = [
        f"{name} {theirs} (the model's: {ours})"
        for name, ours, theirs in differences(model.config, baseline.config)
        if name.startswith(_COMPARED) and name not in _NOT_COMPARED
    ]
    return phrases + ([f"{steps[1]} steps (the model's: {steps[0]})"] if len(set(steps)) > 1 else [])


def write_tables(metrics: Mapping[str, Any], listed: Sequence[Claim], folder: Path) -> None:
    """retrieval.csv, a row for each model, queries and direction, and claims.csv."""
    rows = [
        {"model": model, "queries": queries, "direction": way, **section[way]}
        for model, sections in (("model", metrics["retrieval"]), ("baseline", metrics["baseline"]["retrieval"]))
        for queries, section in (("all", sections), ("unseen sources", (sections or {}).get("unseen_sources")))
        if section
        for way in DIRECTIONS
    ]
    for name, table in (("retrieval", rows), ("claims", [asdict(claim) for claim in listed])):
        with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(table[0]))
            writer.writeheader()
            writer.writerows(table)


def document(
    config: Mapping[str, Any],
    device: torch.device,
    sections: Mapping[str, Any],
    claims: Sequence[Mapping[str, Any]],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """metrics.json: the sections of `prolap.evaluation.protocol.evaluate` with all that says where they come from."""
    versions = environment.versions(device)
    return {
        "schema_version": SCHEMA_VERSION,
        "config": config,
        "seed": config["seed"],
        "commit": versions.pop("commit"),
        "versions": versions,
        **sections,
        "claims": list(claims),
        "seconds": dict(seconds),
    }


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write the document as strict JSON; a number that is not finite is an error that names it."""
    for name, value in _numbers(content, ""):
        if not math.isfinite(value):
            raise ValueError(f"metrics: {name} is {value}, want a finite number or null with a reason.")
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def _numbers(value: Any, name: str) -> list[tuple[str, float]]:
    if isinstance(value, Mapping):
        return [pair for key, inner in value.items() for pair in _numbers(inner, f"{name}.{key}" if name else str(key))]
    if isinstance(value, list | tuple):
        return [pair for index, inner in enumerate(value) for pair in _numbers(inner, f"{name}[{index}]")]
    return [(name, value)] if isinstance(value, float) else []


def print_report(metrics: Mapping[str, Any], listed: Sequence[Claim], *, console: Any = None) -> None:
    """Print retrieval of model and baseline, also on unseen source sets, and each claim passed, failed or not measured."""
    console = console or environment.optional("rich.console", "the report needs rich").Console()
    console.print(_retrieval_table(metrics["retrieval"], (metrics.get("baseline") or {}).get("retrieval") or {}))
    if text := repeated_captions(metrics["retrieval"]):
        console.print(text, style="yellow", highlight=False, soft_wrap=True)
    comparison = (metrics.get("comparison") or {}).get("retrieval") or {}
    for name, row in comparison.items():
        value, low, high = (100 * row["r1"][key] for key in ("value", "low", "high"))
        label = DIRECTIONS.get(name, "both")
        console.print(f"R@1 minus the baseline's, {label}: {value:+.1f} [{low:+.1f}, {high:+.1f}] points")
    console.print(_claim_table(listed))
    for claim in listed:
        console.print(f"  {claim.name}: {claim.detail}", style="dim", highlight=False, soft_wrap=True)
    judged = [claim.passed for claim in listed if claim.passed is not None]
    rest = f"; {len(listed) - len(judged)} not measured" if len(judged) < len(listed) else ""
    console.print(f"{sum(judged)} of {len(judged)} claims passed{rest}.")


def repeated_captions(retrieval: Mapping[str, Any]) -> str:
    """What captions that several clips share do to retrieval; empty if each has its own."""
    repeats = retrieval.get("same_text") or {}
    ceiling = {way: 100 * repeats["ceiling"][way]["r1"] for way in DIRECTIONS} if repeats else {}
    if not repeats or not repeats["shared"]:
        return ""
    distinct, captions, shared = (f"{repeats[key]:,}" for key in ("distinct", "captions", "shared"))
    text = f"{distinct} of {captions} captions are distinct, and {shared} stand at several clips"
    if repeats["positive"]:
        return (
            f"{text}: each of these clips counts as right (--same-text positive); published figures take its own alone."
        )
    limits = ", ".join(f"{label} {ceiling[way]:.1f}" for way, label in DIRECTIONS.items())
    return (
        f"{text}: only the caption's own clip counts as right, so R@1 is at most {limits} %. "
        "--same-text positive counts all of them as right."
    )


def _retrieval_table(model: Mapping[str, Any], baseline: Mapping[str, Any]) -> Any:
    from rich.table import Table

    sides = "model / baseline, " if baseline else ""
    title = f"Retrieval, {sides}% (N = {model['n']:,} clips, chance R@1 {100 * model['chance_r1']:.2g})"
    table = Table("", title=title, title_justify="left")
    for head in COLUMNS.values():
        table.add_column(head, justify="right")
    groups = [("", model, baseline)]
    if unseen := model.get("unseen_sources"):
        groups.append((f"  unseen sources (n = {unseen['n']:,})", unseen, baseline.get("unseen_sources") or {}))
    for note, *compared in groups:
        for key, label in DIRECTIONS.items():
            rows = [side[key] for side in compared if side]
            table.add_row(label + note, *(" / ".join(f"{100 * row[name]:.1f}" for row in rows) for name in COLUMNS))
        table.add_section()
    return table


def _claim_table(listed: Sequence[Claim]) -> Any:
    from rich.table import Table

    table = Table(title="Claims of the paper", title_justify="left")
    table.add_column("claim", no_wrap=True)
    for head in ("value", "control", "threshold"):
        table.add_column(head, justify="right")
    table.add_column("", no_wrap=True)
    for claim in listed:
        numbers = ("-" if value is None else figure(value) for value in (claim.value, claim.control))
        table.add_row(claim.name, *numbers, f"{claim.threshold:g}", _MARK[claim.passed])
    return table
