"""Dev evaluation during training: retrieval in both directions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from prolap.data.batch import Batch
from prolap.data.dataset import AudioTextData
from prolap.models.model import ProLAP


def dev_metrics(model: ProLAP, data: AudioTextData, workers: int = 0) -> dict[str, float]:
    """`<r1|r5|r10|map10>_<t2a|a2t|mean>` on a data set, as fractions; mean is that of both directions."""
    from prolap.evaluation.protocol import evaluate_retrieval

    return _named(evaluate_retrieval(model, data, workers))


def batch_metrics(model: ProLAP, batch: Batch) -> dict[str, float]:
    """The same on the pairs of one batch: what `overfit` wants to see rise to 1."""
    from prolap.evaluation.retrieval import retrieve
    from prolap.models.model import evaluating

    with evaluating(model):
        audio, text = model.encode_audio(batch.audio, batch.frames), model.encode_text(batch.tokens)
    ranks = retrieve(audio, text, np.arange(len(batch)), score=model.config.model.score)
    return _named(ranks.metrics())


def _named(section: Mapping[str, Any]) -> dict[str, float]:
    values: dict[str, float] = {}
    for name in ("r1", "r5", "r10", "map10"):
        ways = {way: float(section[way][name]) for way in ("t2a", "a2t")}
        values |= {f"{name}_{way}": value for way, value in ways.items()}
        values[f"{name}_mean"] = sum(ways.values()) / 2
    return values
