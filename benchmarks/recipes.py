"""The search behind the quickstart recipe: variations of the preset, trained with several seeds, judged on the dev split.

    python -m benchmarks.recipes [NAME ...] [--seeds 0 1 2] [--out benchmarks/results/recipes]

One JSON file per recipe and seed, with what was changed, the dev metrics, seconds and commit; `python -m benchmarks.report` makes
the table of them. Test is never opened here.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path

from . import records
from .records import RESULTS, UNMEASURED, Row, argument_parser, at_path, origin, stamp, table, write_json

COUPLED = ["model.logvar_init=-6", "model.logvar_bounds=[-9, 0]"]
"""Variances large enough that the contrastive loss moves them too."""
RECIPES: dict[str, list[str]] = {
    "preset": [],
    "coupled": COUPLED,
    "coupled masked pairs": [*COUPLED, "loss.masked_pairs.weight=1"],
    "masked pairs": ["loss.masked_pairs.weight=0.3"],
    "joint uncertainty": ["model.detach_uncertainty=false"],
    "positive": ["data.shared_captions=positive"],
    "vib": ["loss.vib.weight=0.02"],
}
"""Name -> what differs from the preset `quickstart`; `baseline` is the deterministic model."""


RECIPE_COLUMNS = {
    "R@1 A→T, %": ("retrieval.a2t.r1", 100),
    "R@1 T→A, %": ("retrieval.t2a.r1", 100),
    "location audio": ("inclusion.audio.location", 1),
    "location text": ("inclusion.text.location", 1),
    "partial ρ of level": ("uncertainty.level_partial", 1),
    "wordy general wider": ("uncertainty.wordy_general_rate", 1),
}
"""Title -> path into the metrics of a recipe, and what it is multiplied by."""


def measure(name: str, seed: int, steps: int | None = None, threads: int | None = None) -> Row:
    """Train one recipe with one seed and evaluate it on dev."""
    from prolap.cli.quickstart import baseline_of
    from prolap.data import open_data
    from prolap.evaluation.protocol import evaluate
    from prolap.training.config import load_config
    from prolap.training.train import train
    from prolap.weights.checkpoint import load_model

    with tempfile.TemporaryDirectory() as folder:
        words = [] if name == "baseline" else RECIPES[name]
        set_here = {"steps": steps, "threads": threads, "seed": seed, "run": f"{folder}/run", "tensorboard": "false"}
        options = [f"{name}={value}" for name, value in set_here.items() if value is not None]
        config = load_config("quickstart", overrides=[*words, *options])
        config = baseline_of(config) if name == "baseline" else config
        started = time.perf_counter()
        train(config, progress=False)
        seconds = time.perf_counter() - started
        model = load_model(config.run)
        metrics = evaluate(model, open_data(config, "dev"), seed=seed, mask=config.mask).metrics
    row = {"recipe": name, "overrides": words, "seed": seed, "steps": config.steps, "seconds": seconds}
    return stamp("cpu") | row | metrics


def report() -> str:
    """Mean and deviation over seeds of every recipe."""
    groups: dict[str, list[Row]] = {}
    for path in sorted((records.RESULTS / "recipes").glob("*.json")):
        record = json.loads(path.read_text())
        groups.setdefault(record["recipe"], []).append(record)
    if not groups:
        return UNMEASURED
    rows = []
    for name in sorted(groups, key=lambda n: (n != "preset", n)):
        cells = []
        for path, factor in RECIPE_COLUMNS.values():
            values = [factor * v for record in groups[name] if (v := at_path(record, path)) is not None]
            digits = 1 if factor == 100 else 2
            spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.{digits}f}{spread}" if values else "-")
        changed = ", ".join(f"`{word}`" for word in groups[name][0]["overrides"])
        rows.append([f"{name} ({changed})" if changed else name, str(len(groups[name])), *cells])
    note = "; ".join(sorted({origin(record) for group in groups.values() for record in group}))
    return f"{table(['recipe (what differs)', 'seeds', *RECIPE_COLUMNS], rows)}\n\n{note} (+: tracked files differed)"


def main() -> None:
    parser = argument_parser("recipes", __doc__)
    parser.add_argument("names", nargs="*", choices=[*RECIPES, "baseline", []], metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--threads", type=int, help="torch threads; results differ in their last bits")
    parser.add_argument("--out", type=Path, default=RESULTS / "recipes")
    args = parser.parse_args()
    for name in args.names or [*RECIPES, "baseline"]:
        for seed in args.seeds:
            record = measure(name, seed, args.steps, args.threads)
            write_json(args.out / f"{name.replace(' ', '-')}-{record['steps']}-seed{seed}.json", record)
            print(name, seed, {title: at_path(record, path) for title, (path, _) in RECIPE_COLUMNS.items()}, flush=True)


if __name__ == "__main__":
    main()
