"""The weighted union: several data sets as one, each drawn from by weight; and how a text names it."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from prolap.data.batch import gathered
from prolap.data.dataset import AudioTextData
from prolap.data.features import Features
from prolap.data.files.entries import Report
from prolap.data.files.layouts import LAYOUTS, Part
from prolap.data.files.layouts.manifest import Manifest
from prolap.utils.files import write_text
from prolap.utils.seeding import numpy_generator

_WEIGHTED = re.compile(r"(?P<text>.*\S)\s+\*\s*(?P<weight>\S+)")


def parse(text: str) -> list[Part]:
    """The data sets that a text such as `audiocaps:FOLDER * 2 + rest.csv` names.

    A data set is LAYOUT:PATH, LAYOUT/SUBSET:PATH for other rows than the split's own, or the path of a manifest; the signs of a
    sum need spaces around them, as paths may hold them.
    Errors: ValueError for an unknown layout, an empty term, or a weight that is not a number above 0.
    """
    return [_part(term.strip(), text) for term in _terms(text)]


def absolute(text: str) -> str:
    """The text with absolute paths, which names the same data sets from any folder. Errors: as `parse`."""
    return " + ".join(_absolute(term.strip(), part) for term, part in zip(_terms(text), parse(text), strict=True))


def _absolute(term: str, part: Part) -> str:
    match = _WEIGHTED.fullmatch(term)
    name = match["text"] if match else term
    path = part.layout.absolute(part.path) if part.path else ""
    if re.search(r"\s[+*]\s", path):  # a folder above has the signs of a sum in its name
        return term
    return name[: len(name) - len(part.path)] + path + term[len(name) :]


def _terms(text: str) -> list[str]:
    return re.split(r"\s\+\s", text)


def _part(term: str, whole: str) -> Part:
    match = _WEIGHTED.fullmatch(term)
    name, weight = (match["text"], match["weight"]) if match else (term, "1")
    try:
        number = float(weight)
    except ValueError:
        number = 0.0
    if not name or not 0 < number < float("inf"):
        raise ValueError(f"data: got {term!r} in {whole!r}, want a data set, or one * a number above 0")
    head, colon, path = name.partition(":")
    layout, _, subset = head.partition("/")
    if layout in LAYOUTS and bool(path) == (LAYOUTS[layout].form != layout):
        return Part(LAYOUTS[layout], path, subset, number)
    if (colon and re.fullmatch(r"\w{2,}", layout)) or head in LAYOUTS:
        close = difflib.get_close_matches(layout, LAYOUTS, n=1)
        meant = f"; did you mean {LAYOUTS[close[0]].form}?" if close else ""
        raise ValueError(f"data: got {name!r}, want {', '.join(each.form for each in LAYOUTS.values())}{meant}")
    return Part(LAYOUTS[Manifest.name], name, weight=number)


class Reports(NamedTuple):
    """What became of the rows of several data sets."""

    parts: tuple[Report, ...]

    def write(self, path: str | Path) -> None:
        """As a JSON list, whole or not at all."""
        write_text(Path(path), json.dumps([asdict(part) for part in self.parts], indent=2, ensure_ascii=False))


def _of_the_part(method: str) -> Any:
    """A method of the union that asks the part that clip i belongs to."""

    def ask(union: WeightedUnion, i: int, *arguments: Any) -> Any:
        part, inner = union._part(i)
        return getattr(part, method)(inner, *arguments)

    return ask


class WeightedUnion:
    """The clips of the parts one after the other; `order` says how often each is heard in training.

    A clip of a part with weight 2 is drawn twice as often as one of a part with weight 1, whatever the sizes: a part's
    share of an epoch is weight x clips, over the sum of that. So `A + B` hears every clip once an epoch, and to draw
    equally from A with 50,000 clips and B with 5,000, write `A + B * 10`. An epoch has as many draws as there are clips.

    Everything else is handed to the part that the clip belongs to.
    """

    features, heard, frames = map(_of_the_part, ("features", "heard", "frames"))
    captions, evaluation_captions = map(_of_the_part, ("captions", "evaluation_captions"))
    chain, unseen = map(_of_the_part, ("chain", "unseen"))

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
        start, stop = first // size, math.ceil((first + count) / size)
        passes = [numpy_generator(seed, "mixture", k, number).permutation(size) for number in range(start, stop)]
        return self.starts[k] + np.concatenate(passes)[first - start * size :][:count]

    def _part(self, i: int) -> tuple[AudioTextData, int]:
        if not 0 <= i < len(self):
            raise IndexError(f"clip {i} of {len(self)}")
        k = int(np.searchsorted(self.starts, i, side="right")) - 1
        return self.parts[k], i - int(self.starts[k])

    def features_batch(self, indices: Sequence[int] | np.ndarray, epoch: int | None = None) -> tuple[Tensor, Tensor]:
        """In the order asked for, zero-padded to the longest that any part gives."""
        indices = np.asarray(indices)
        owners = np.searchsorted(self.starts, indices, side="right") - 1
        groups = []
        for k in np.unique(owners):
            rows = np.flatnonzero(owners == k)
            groups.append((rows, *self.parts[k].features_batch(indices[rows] - self.starts[k], epoch)))
        return gathered(groups)

    @property
    def log_mel(self) -> Features:
        """The recipe, the same for all parts."""
        recipe: Features = self.parts[0].log_mel  # type: ignore[attr-defined]
        return recipe

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
