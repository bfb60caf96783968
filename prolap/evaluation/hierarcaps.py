"""Traversal on files like HierarCaps' (CSV), in the form of ProLIP's public script: strings, 50 points, its own root.

Matching strings does not count a paraphrase, so these numbers are lower than the node-based ones of
`prolap.evaluation.traversal` and comparable only to others made in this form. Several rows may describe one sound: a
string counts if any of its references holds it, a level if any reference's string of that level was met.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from prolap.evaluation.captions import LEVELS
from prolap.evaluation.traversal import containment_roots, starts, walk
from prolap_kernels import Gaussian

POINTS = 50


def read_hierarcaps(path: str | Path, *, key: str | None = None) -> dict[str, list[tuple[str, ...]]]:
    """Chains of 4 captions, general to specific, by the item they describe.

    The file has a column `captions` ("general => ... => specific") and one that names the item: `key`, or else the
    first other column.
    """
    out: dict[str, list[tuple[str, ...]]] = {}
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        columns = list(reader.fieldnames or [])
        others = [name for name in columns if name and name != "captions"]
        name = key or (others[0] if others else "")
        if "captions" not in columns or name not in columns:
            item = repr(key) if key else "one that names the item"
            raise ValueError(f"{path} has the columns {columns}, want 'captions' and {item}.")
        for line, row in enumerate(reader, start=2):
            chain = tuple(part.strip() for part in row["captions"].split("=>"))
            if len(chain) != LEVELS:
                raise ValueError(f"{path}, line {line}: {len(chain)} captions, want a chain of {LEVELS}.")
            out.setdefault(row[name], []).append(chain)
    return out


def script_traversal(
    audio: Gaussian,
    captions: Gaussian,
    texts: Sequence[str],
    references: Sequence[Sequence[Sequence[str]]],
    *,
    score: str = "csd",
) -> dict[str, object]:
    """`precision`, `recall`, `recall_by_level` by strings, on 50 points to each sound's own `containment` root.

    audio [N]; captions [M] with their `texts`; `references[i]` the chains of sound i. Our reading: the points retrieve
    by the dot product of means, as in `prolap.evaluation.traversal`.
    """
    start = torch.from_numpy(starts(audio, captions, score=score))
    root = torch.from_numpy(containment_roots(audio, captions))
    path = walk(captions.mean[start], captions.mean[root], captions.mean, points=POINTS)
    precision, hits = [], []
    for row, chains in zip(path, references, strict=True):
        met = {texts[index] for index in row}
        own = {text for chain in chains for text in chain}
        precision.append(len(met & own) / len(met))
        hits.append([float(any(chain[level] in met for chain in chains)) for level in range(LEVELS)])
    by_level = np.array(hits).mean(0)
    return {
        "precision": float(np.mean(precision)),
        "recall": float(by_level.mean()),
        "recall_by_level": by_level.tolist(),
    }
