"""Tables about the trainer, from the committed result files and from nothing else."""

from __future__ import annotations

from .tables import UNMEASURED, load, origin, table


def miniature() -> str:
    """What the runs on recorded sound in the public layouts came to."""
    found = load("cpu/miniature.json")
    if found is None:
        return UNMEASURED
    rows = []
    for name, run in found["runs"].items():
        retrieval = run["retrieval"]
        cells = [f"{100 * retrieval[way]['r1']:.1f} / {100 * retrieval[way]['map10']:.1f}" for way in ("t2a", "a2t")]
        chance = f"{100 * retrieval['chance_r1']:.1f}"
        command = f"`--preset {run['preset']} {' '.join(run['options'])}`"
        rows.append([f"{name}: {command}", str(retrieval["n"]), *cells, chance])
    head = ["run", "N", "T→A R@1 / mAP@10, %", "A→T R@1 / mAP@10, %", "chance R@1, %"]
    return f"{origin(found)}, random initial weights:\n\n{table(head, rows)}"
