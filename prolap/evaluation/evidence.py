"""What the plots show beyond the metrics: tables, walks and a sweep over mask ratios."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prolap.config import MaskConfig
from prolap.evaluation.embed import masked_sounds, masked_texts
from prolap.evaluation.pool import Pool
from prolap.evaluation.retrieval import RiskCoverage
from prolap.evaluation.traversal import LEVELS, Traversal
from prolap.evaluation.uncertainty import mean_logvar
from prolap.models.model import evaluating
from prolap.utils.progress import watched
from prolap.utils.seeding import torch_generator

SWEEP = (0.0, 0.2, 0.4, 0.6, 0.75, 0.9)
SWEEP_CLIPS = 160


@dataclass
class Evidence:
    """What the plots need beyond the metrics; empty where it could not be computed."""

    captions: dict[str, NDArray[Any]] = field(default_factory=dict)
    """u, u_random, length, level of the level-balanced captions."""
    sweep: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    """By modality: `ratio` (share masked in truth), `mean`, `low`, `high` (quartiles) of u."""
    paths: list[dict[str, Any]] = field(default_factory=list)
    """Three walks: `clip`, `precision`, `steps` of (t from, t to, text, level, in the clip's chain), `chain` texts."""
    risk: dict[str, RiskCoverage] = field(default_factory=dict)
    """By direction."""


def chained_clips(data: Any) -> list[int]:
    """The clips with a whole chain of semantic nodes."""
    return [index for index in range(len(data)) if len(data.chain(index)) == LEVELS]


def three_paths(walks: dict[str, Traversal], data: Any, pool: Pool) -> list[dict[str, Any]]:
    """Three walks to show: the clips at the quartiles of precision on the label-free root, none picked by hand."""
    if "label_free" not in walks:
        return []
    walk, rows = walks["label_free"], pool.chained
    clips = chained_clips(data)
    order = np.argsort(walk.precision, kind="stable")
    out = []
    for quantile in (0.75, 0.5, 0.25):
        place = int(order[round(quantile * (len(order) - 1))])
        chain = data.chain(clips[place])
        time, steps = np.linspace(0, 1, walk.path.shape[1]), []
        # Paraphrases met one after the other are one step, shown by the first.
        edges = np.flatnonzero(np.diff(pool.node[rows[walk.path[place]]])) + 1
        for part in np.split(np.arange(walk.path.shape[1]), edges):
            caption = rows[walk.path[place, part[0]]]
            steps.append(
                (time[part[0]], time[part[-1]], pool.texts[caption], pool.level[caption], pool.node[caption] in chain)
            )
        out.append(
            {
                "clip": clips[place],
                "precision": float(walk.precision[place]),
                "steps": steps,
                "chain": [data.node_text(v) for v in chain],
            }
        )
    return out


def mask_sweep(
    model: Any, data: Any, texts: Sequence[str], mask: MaskConfig, seed: int
) -> dict[str, dict[str, list[float]]]:
    """u against the share masked, one mask level at each of several ratios, on the first clips; texts one a clip."""
    clips = range(min(SWEEP_CLIPS, len(data)))
    audio, frames = data.features_batch(clips)
    texts = texts[: len(clips)]
    out: dict[str, dict[str, list[float]]] = {
        name: {key: [] for key in ("ratio", "mean", "low", "high")} for name in ("audio", "text")
    }
    with evaluating(model):
        for ratio in watched(SWEEP, f"Masking {len(clips)} sounds and captions ever more", len(SWEEP)):
            at = MaskConfig(ratio=ratio, mode=mask.mode)
            for name in out:
                generator = torch_generator(seed, "mask sweep", name)
                if name == "audio":
                    (z, *_), share = masked_sounds(model, audio, frames, at, generator, copies=1)
                else:
                    (z, *_), share = masked_texts(model, texts, at, generator, copies=1)
                u = mean_logvar(z)
                values = (float(share.mean()), float(u.mean()), *np.quantile(u, [0.25, 0.75]).tolist())
                for key, value in zip(out[name], values, strict=True):
                    out[name][key].append(value)
    return out
