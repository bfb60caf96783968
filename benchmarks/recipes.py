"""The search behind the quickstart recipe: variations of the preset, trained with several seeds, judged on the dev split.

    python -m benchmarks.recipes [NAME ...] [--seeds 0 1 2] [--out benchmarks/results/recipes]
    python -m benchmarks.recipes --table

One JSON file per recipe and seed, with what was changed, the dev metrics, seconds and commit. Test is never opened here.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from .environment import ROOT, stamp

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
COLUMNS = {
    "A->T": "retrieval.a2t.r1",
    "T->A": "retrieval.t2a.r1",
    "location audio": "inclusion.audio.location",
    "location text": "inclusion.text.location",
    "direction audio": "inclusion.audio.direction",
    "direction text": "inclusion.text.direction",
    "level partial": "uncertainty.level_partial",
    "wordy rate": "uncertainty.wordy_general_rate",
    "length": "uncertainty.length_spearman",
    "random words": "uncertainty.length_spearman_random_words",
    "seconds": "seconds",
}


def measure(name: str, seed: int, steps: int | None = None, threads: int | None = None) -> dict[str, object]:
    """Train one recipe with one seed and evaluate it on dev."""
    from prolap.cli.quickstart import baseline_of
    from prolap.data import open_data
    from prolap.evaluation.protocol import evaluate
    from prolap.training.config import load_config
    from prolap.training.train import train
    from prolap.weights.checkpoint import load_model

    with tempfile.TemporaryDirectory() as folder:
        words = [] if name == "baseline" else RECIPES[name]
        size = [f"steps={steps}"] if steps else []
        size += [f"threads={threads}"] if threads else []
        config = load_config(
            "quickstart", overrides=[*words, *size, f"seed={seed}", f"run={folder}/run", "tensorboard=false"]
        )
        config = baseline_of(config) if name == "baseline" else config
        started = time.perf_counter()
        train(config, progress=False)
        seconds = time.perf_counter() - started
        model = load_model(config.run)
        metrics = evaluate(model, open_data(config, "dev"), seed=seed, mask=config.mask)
    return stamp("cpu") | {
        "recipe": name,
        "overrides": words,
        "seed": seed,
        "steps": config.steps,
        "seconds": seconds,
        **metrics,
    }


def _read(found: dict, path: str) -> float | None:
    for key in path.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return found


def table(out: Path) -> None:
    """Mean and standard deviation over seeds, a row per recipe."""
    rows: dict[str, list[dict]] = {}
    for path in sorted(out.glob("*.json")):
        found = json.loads(path.read_text())
        rows.setdefault(f"{found['recipe']} ({found['steps']})", []).append(found)
    print("| recipe (steps) | seeds | " + " | ".join(COLUMNS) + " |\n|" + " --- |" * (len(COLUMNS) + 2))
    for name, found in rows.items():
        cells = []
        for column in COLUMNS.values():
            values = [v for row in found if (v := _read(row, column)) is not None]
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.2f}{spread}" if values else "-")
        print(f"| {name} | {len(found)} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*RECIPES, "baseline", []], metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--threads", type=int, help="torch threads; results differ in their last bits")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "recipes")
    parser.add_argument("--table", action="store_true", help="print what is there already")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in [] if args.table else (args.names or [*RECIPES, "baseline"]):
        for seed in args.seeds:
            found = measure(name, seed, args.steps, args.threads)
            path = args.out / f"{name.replace(' ', '-')}-{found['steps']}-seed{seed}.json"
            path.write_text(json.dumps(found, indent=1) + "\n")
            print(name, seed, {column: _read(found, where) for column, where in COLUMNS.items()}, flush=True)
    table(args.out)


if __name__ == "__main__":
    main()
