"""What became of every tensor of a checkpoint that a model starts from."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Report:
    """Every name of the file is in `mapped` or `dropped`, every name of the model in `mapped` or `new`."""

    source: str
    layout: str
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
        return f"init: {self.source} ({self.layout}), {len(self.mapped)} tensors mapped{dropped}{new}{notes}"

    def to_dict(self) -> dict[str, Any]:
        """The whole report as plain values."""
        return asdict(self)


def _group(name: str) -> str:
    head, found, _ = name.partition(".logvar.")
    return f"{head}.logvar" if found else name
