"""The search behind the quickstart recipe: variations of the preset, trained with several seeds, judged on the dev split.

    python -m benchmarks.recipes [NAME ...] [--seeds 0 1 2] [--out benchmarks/results/recipes]

One JSON file per recipe and seed, with what was changed, the dev metrics, seconds and commit; `python -m benchmarks.report` makes
the table of them. Test is never opened here.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from .records import RESULTS, Row, argument_parser, stamp, write_json
from .trainer_tables import RECIPE_COLUMNS, read

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
            print(name, seed, {title: read(record, path) for title, (path, _) in RECIPE_COLUMNS.items()}, flush=True)


if __name__ == "__main__":
    main()
