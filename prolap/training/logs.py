"""What a run writes down: one JSON object a line, TensorBoard if it is wanted, and the retrieval on dev."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Any, Literal

import numpy as np

from prolap.data.batch import Batch
from prolap.data.dataset import AudioTextData
from prolap.models.model import ProLAP
from prolap.training.memory import PHASES
from prolap.utils.environment import optional
from prolap.utils.files import read_rows, sync, write_text, writing

TIMING = ("clips_per_second", "data_wait_share", "seconds", *(f"memory/{phase}" for phase in PHASES))
"""Fields that differ from run to run; all others are the same after a resume."""


class Logs:
    """`train.jsonl` and `dev.jsonl` in the run folder; rows after `step` are dropped on opening."""

    def __init__(self, run: Path, step: int, tensorboard: bool = False) -> None:
        self._files: dict[str, FileIO] = {}
        for kind in ("train", "dev"):
            path = run / f"{kind}.jsonl"
            keep_until(path, step)
            self._files[kind] = path.open("ab", buffering=0)  # else a full disk is told again when the file is closed
        self._board: Any = None
        if tensorboard:
            package = optional("torch.utils.tensorboard", "TensorBoard logs need the package tensorboard")
            self._board = package.SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)

    def write(self, kind: str, row: Mapping[str, Any]) -> None:
        """Append a row to `<kind>.jsonl`; it has a `step`."""
        file, line = self._files[kind], json.dumps(row).encode() + b"\n"
        with writing(Path(str(file.name))):
            while line:  # without a buffer, a write may take only a part
                line = line[file.write(line) :]
        if self._board is not None:
            for name, value in row.items():
                if isinstance(value, float):
                    self._board.add_scalar(name if "/" in name else f"{kind}/{name}", value, row["step"])

    def sync(self) -> None:
        """Push everything to the disk."""
        for file in self._files.values():
            with writing(Path(str(file.name))):
                sync(Path(str(file.name)))

    def close(self) -> None:
        """Close the files; the logs cannot be written to afterwards."""
        for file in self._files.values():
            file.close()
        if self._board is not None:
            self._board.close()


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file; damaged lines are left out."""
    return read_rows(path)[0]


def keep_until(path: Path, step: int) -> None:
    """Drop the rows of later steps, a half-written last line and, with a warning, damaged lines."""
    if path.exists():
        rows, damaged = read_rows(path)
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows if row["step"] <= step))
        if damaged:
            numbers = ", ".join(map(str, damaged[:5])) + (", ..." if len(damaged) > 5 else "")
            message = f"{path}: {len(damaged)} damaged lines were left out (line {numbers})."
            warnings.warn(message, RuntimeWarning, stacklevel=2)


def dev_metrics(
    model: ProLAP, data: AudioTextData, workers: int = 0, same_text: Literal["negative", "positive"] = "negative"
) -> dict[str, float]:
    """`<r1|r5|r10|map10>_<t2a|a2t|mean>` on a data set, as fractions; mean is that of both directions."""
    from prolap.evaluation.protocol import evaluate_retrieval

    return _named(evaluate_retrieval(model, data, workers, same_text))


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
