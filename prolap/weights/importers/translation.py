"""From the names of another file to ours, by rules, with a report on what became of every tensor."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from prolap.config import ModelConfig
from prolap.models.heads import SATURATED, bound, scale_bounds, unbound
from prolap.weights.checkpoint import CheckpointError

NEW = ("audio.mask", "text.mask", "audio_head.logvar.*", "text_head.logvar.*", "bias")
"""What no public file has."""
COMPUTED = ("*.relative_position_index",)
"""What is in our state but follows from the architecture."""


@dataclass(frozen=True)
class Rule:
    r"""A whole public name (a regular expression) -> our names, in which \1 and so on stand for its groups.

    Several names: the tensor is cut into so many equal parts along its first axis. None: dropped, because of `why`.
    """

    pattern: str
    to: tuple[str, ...] = ()
    why: str = ""


@dataclass
class Translation:
    """Tensors under our names, and what became of the public ones."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    mapped: dict[str, list[str]] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def translate(tensors: Mapping[str, Tensor], rules: Sequence[Rule]) -> Translation:
    """Apply to each name the first rule that fits it; a name that no rule fits is a problem."""
    done = Translation()
    for public, tensor in tensors.items():
        matches = ((rule, match) for rule in rules if (match := re.fullmatch(rule.pattern, public)))
        rule, match = next(matches, (None, None))
        if rule is None or match is None:
            done.problems.append(f"{public} is unknown")
            continue
        if not rule.to:
            done.dropped[public] = rule.why
            continue
        names = [match.expand(name) for name in rule.to]
        if len(names) > 1 and (tensor.ndim == 0 or tensor.shape[0] % len(names)):
            done.problems.append(f"{public} has shape {tuple(tensor.shape)}, which is not {len(names)} equal parts")
            continue
        done.mapped[public] = names
        parts = tensor.chunk(len(names)) if len(names) > 1 else (tensor,)
        for name, part in zip(names, parts, strict=True):
            if name in done.tensors:
                done.problems.append(f"{public} is a second source of {name}")
            done.tensors[name] = part
    return done


def fit(done: Translation, state: Mapping[str, Tensor], source: str, may_be_new: Sequence[str] = NEW) -> list[str]:
    """The names of `state` that are new, if everything else of it is there in its shape and nothing is left over.

    may_be_new: patterns of names that may be. Looks at names and shapes alone.
    Errors: CheckpointError that lists all that is missing, of another shape or unknown.
    """
    problems = list(done.problems)
    new = [name for name in state if name not in done.tensors and _like(name, may_be_new)]
    for name, tensor in state.items():
        if name not in done.tensors:
            if not _like(name, (*may_be_new, *COMPUTED)):
                problems.append(f"{name} is missing")
        elif done.tensors[name].shape != tensor.shape:
            shapes = f"{tuple(done.tensors[name].shape)}, want {tuple(tensor.shape)}"
            problems.append(f"{name} has shape {shapes}")
    problems += [f"{name} is not in the model" for name in done.tensors if name not in state]
    if problems:
        raise CheckpointError(f"{source} does not fit the model: {'; '.join(problems)}.")
    return new


def fill(model: nn.Module, done: Translation, source: str, may_be_new: Sequence[str] = NEW) -> list[str]:
    """Copy the tensors into the model and return the names that are new there; errors as for `fit`."""
    state = model.state_dict()
    new = fit(done, state, source, may_be_new)
    with torch.no_grad():
        for name, tensor in done.tensors.items():
            state[name].copy_(tensor)
    return new


def bounded_scale(parameter: float, model: ModelConfig) -> float:
    """The logarithm of the scale that a model's `log_scale` means."""
    return float(bound(torch.tensor(parameter), *scale_bounds(model)))


def start_scale(value: float, model: ModelConfig) -> tuple[float, list[str]]:
    """The `log_scale` whose scale is exp(value), and a note if it had to be moved inside our bounds.

    At or beyond a bound nothing could be learned, so such a scale starts where the gradient is about 1/10.
    """
    lower, upper, width = scale_bounds(model)
    inside = min(max(value, lower + SATURATED * width), upper - SATURATED * width)
    notes = []
    if inside != value:
        limits = f"model.scale_min={model.scale_min}, model.scale_max={model.scale_max}"
        notes.append(f"its scale {math.exp(value):.4g} starts at {math.exp(inside):.4g}, inside {limits}")
    return unbound(inside, lower, upper, width), notes


def _like(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


@dataclass(frozen=True)
class Report:
    """Every name of the file is in `mapped` or `dropped`, every name of the model in `mapped` or `new`."""

    source: str
    format: str
    sha256: str
    """Of the file that the weights are in."""
    mapped: dict[str, list[str]] = field(default_factory=dict)
    """Name in the file -> names in the model."""
    dropped: dict[str, str] = field(default_factory=dict)
    """Name in the file -> why the model has no use for it."""
    new: list[str] = field(default_factory=list)
    """Names in the model that no such file has; they keep their first values."""
    notes: list[str] = field(default_factory=list)
    """Sentences on what else differs."""

    def summary(self) -> str:
        """A few lines for people."""
        reasons = Counter(self.dropped.values())
        dropped = "".join(f"\n  {count} dropped: {why}" for why, count in reasons.items())
        groups = dict.fromkeys(_group(name) for name in self.new)
        new = f"\n  {len(self.new)} new: {', '.join(groups)}" if self.new else ""
        notes = "".join(f"\n  {note}" for note in self.notes)
        return f"init: {self.source} ({self.format}), {len(self.mapped)} tensors mapped{dropped}{new}{notes}"

    def to_dict(self) -> dict[str, Any]:
        """The whole report as plain values."""
        return asdict(self)


def _group(name: str) -> str:
    head, inside, _ = name.partition(".logvar.")
    return f"{head}.logvar" if inside else name
