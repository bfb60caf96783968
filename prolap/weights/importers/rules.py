"""From the names of a public file to ours, by rules; nothing is left over in silence."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from torch import Tensor

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
        found = next(((rule, match) for rule in rules if (match := re.fullmatch(rule.pattern, public))), None)
        if found is None:
            done.problems.append(f"{public} is unknown")
            continue
        rule, match = found
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


def fit(done: Translation, state: Mapping[str, Tensor], source: str) -> list[str]:
    """The names of `state` that are new, if everything else of it is there in its shape and nothing is left over.

    Looks at names and shapes alone. Errors: CheckpointError that lists all that is missing, of another shape or unknown.
    """
    problems = list(done.problems)
    new = [name for name in state if name not in done.tensors and _like(name, NEW)]
    for name, tensor in state.items():
        if name not in done.tensors:
            if not _like(name, (*NEW, *COMPUTED)):
                problems.append(f"{name} is missing")
        elif done.tensors[name].shape != tensor.shape:
            shapes = f"{tuple(done.tensors[name].shape)}, want {tuple(tensor.shape)}"
            problems.append(f"{name} has shape {shapes}")
    problems += [f"{name} is not in the model" for name in done.tensors if name not in state]
    if problems:
        raise CheckpointError(f"{source} does not fit the model: {'; '.join(problems)}.")
    return new


def _like(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
