"""Several data sets as one, each drawn from by weight."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from prolap.data import cache
from prolap.data.dataset import AudioTextData, Caption
from prolap.data.features import Features
from prolap.data.files.entries import Report
from prolap.utils.seeding import numpy_generator

_WEIGHTED = re.compile(r"(?P<text>.*\S)\s+\*\s*(?P<weight>\S+)")


class Weighted(NamedTuple):
    """A term of `A * 2 + B`."""

    text: str
    weight: float


def parse_sum(text: str) -> list[Weighted]:
    """`A * 2 + B` as its terms; one data set alone has weight 1. The signs need spaces around them, as paths may hold them.

    Errors: ValueError for an empty term or a weight that is not a number above 0.
    """
    terms = []
    for part in re.split(r"\s\+\s", text):
        match = _WEIGHTED.fullmatch(part.strip())
        name, weight = (match["text"], match["weight"]) if match else (part.strip(), "1")
        try:
            value = float(weight)
        except ValueError:
            value = 0.0
        if not name or not 0 < value < float("inf"):
            raise ValueError(f"data: got {part.strip()!r} in {text!r}, want a data set, or one * a number above 0")
        terms.append(Weighted(name, value))
    return terms


class Reports(NamedTuple):
    """What became of the rows of several data sets."""

    parts: tuple[Report, ...]

    def write(self, path: str | Path) -> None:
        """As a JSON list, whole or not at all."""
        with cache.atomic(Path(path)) as file:
            file.write(json.dumps([asdict(part) for part in self.parts], indent=2, ensure_ascii=False).encode())


class Mixture:
    """The clips of the parts one after the other; `order` says how often each is heard in training.

    A clip of a part with weight 2 is drawn twice as often as one of a part with weight 1, whatever the sizes: a part's
    share of an epoch is weight x clips, over the sum of that. So `A + B` hears every clip once an epoch, and to draw
    equally from A with 50,000 clips and B with 5,000, write `A + B * 10`. An epoch has as many draws as there are clips.

    Everything else is handed to the part that the clip belongs to.
    """

    def __init__(self, parts: Sequence[AudioTextData], weights: Sequence[float]) -> None:
        if len(parts) != len(weights) or not parts:
            raise ValueError(
                f"weights: got {len(weights)} for {len(parts)} parts, want one for each of at least one part"
            )
        self.parts = list(parts)
        self.weights = list(weights)
        named = [part.name if w == 1 else f"{part.name} * {w:g}" for part, w in zip(parts, weights, strict=True)]
        self.name = " + ".join(named)
        self.starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def counts(self) -> list[int]:
        """Draws from each part in an epoch; they sum to len(self), rounded by largest remainders, none to zero."""
        sizes = np.array([len(part) for part in self.parts]) * np.array(self.weights)
        exact = sizes / sizes.sum() * len(self)
        counts = np.maximum(1, np.floor(exact)).astype(int)
        while counts.sum() < len(self):
            counts[int(np.argmax(exact - counts))] += 1
        while counts.sum() > len(self):
            counts[int(np.argmax(np.where(counts > 1, counts - exact, -np.inf)))] -= 1
        return [int(count) for count in counts]

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """The clips of an epoch [len(self)] in the order of training, a pure function of its arguments.

        Each part is gone through in permutations of its own, pass after pass and on across epochs, so no clip comes again
        before its part is exhausted; the draws of all parts are then shuffled together.
        """
        drawn = [self._stream(seed, k, epoch * count, count) for k, count in enumerate(self.counts())]
        return np.concatenate(drawn)[numpy_generator(seed, "order", epoch).permutation(len(self))]

    def _stream(self, seed: int, k: int, first: int, count: int) -> np.ndarray:
        """Draws first ... first + count - 1 of part k."""
        size = len(self.parts[k])
        start, stop = first // size, -(-(first + count) // size)
        passes = [numpy_generator(seed, "mixture", k, number).permutation(size) for number in range(start, stop)]
        return self.starts[k] + np.concatenate(passes)[first - start * size :][:count]

    def _part(self, i: int) -> tuple[AudioTextData, int]:
        if not 0 <= i < len(self):
            raise IndexError(f"clip {i} of {len(self)}")
        k = int(np.searchsorted(self.starts, i, side="right")) - 1
        return self.parts[k], i - int(self.starts[k])

    def features(self, i: int) -> Tensor:
        part, inner = self._part(i)
        return part.features(inner)

    def features_batch(self, indices: Sequence[int] | np.ndarray, epoch: int | None = None) -> tuple[Tensor, Tensor]:
        """In the order asked for, zero-padded to the longest that any part gives."""
        where = np.searchsorted(self.starts, np.asarray(indices), side="right") - 1
        found = {}
        for k in np.unique(where).tolist():
            rows = np.flatnonzero(where == k)
            found[k] = rows, *self.parts[k].features_batch(np.asarray(indices)[rows] - self.starts[k], epoch)
        longest = max((audio.shape[1] for _, audio, _ in found.values()), default=0)
        mels = next((audio.shape[2] for _, audio, _ in found.values()), 0)
        out, valid = torch.zeros(len(where), longest, mels), torch.zeros(len(where), dtype=torch.int64)
        for rows, audio, frames in found.values():
            out[rows, : audio.shape[1]] = audio
            valid[rows] = frames
        return out, valid

    @property
    def log_mel(self) -> Features:
        """The recipe, the same for all parts."""
        recipe: Features = self.parts[0].log_mel  # type: ignore[attr-defined]
        return recipe

    def heard(self, i: int, epoch: int | None = None) -> Tensor:
        """The waveform [T] that training hears of clip i."""
        part, inner = self._part(i)
        wave: Tensor = part.heard(inner, epoch)  # type: ignore[attr-defined]
        return wave

    def frames(self, i: int) -> int:
        part, inner = self._part(i)
        return part.frames(inner)

    def captions(self, i: int) -> Sequence[Caption]:
        part, inner = self._part(i)
        return part.captions(inner)

    def evaluation_captions(self, i: int) -> Sequence[Caption]:
        part, inner = self._part(i)
        return part.evaluation_captions(inner)

    def chain(self, i: int) -> tuple[int, ...]:
        part, inner = self._part(i)
        return part.chain(inner)

    def unseen(self, i: int) -> bool:
        part, inner = self._part(i)
        return part.unseen(inner)

    def node_text(self, node: int) -> str:
        for part in self.parts:
            try:
                return part.node_text(node)
            except KeyError:
                continue
        raise KeyError(f"node {node} does not occur in {self.name}")

    @property
    def report(self) -> Reports | None:
        """Those of the parts that have one."""
        reports = [part.report for part in self.parts if hasattr(part, "report")]
        return Reports(tuple(reports)) if reports else None
