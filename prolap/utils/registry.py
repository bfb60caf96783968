"""Entries by name: encoders, terms of the loss, layouts of data sets. A user's own module may add more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
Kind = TypeVar("Kind", bound=type)


class Registry(dict[str, T]):
    """Name -> entry; asking for a name that is not there is a ValueError that lists those that are."""

    def __init__(self, option: str, make: Callable[[Any], T] = lambda kind: kind) -> None:
        """option: what names an entry, for messages. make: from a class to its entry, by default the class itself."""
        super().__init__()
        self.option, self.make = option, make

    def add(self, name: str, entry: T) -> None:
        """Put an entry under a name. Errors: ValueError if there is no name, or another kind of entry has it already."""
        if not isinstance(name, str) or not name:
            raise ValueError(f"{self.option}: got {name!r} as the name of {entry!r}, want a text.")
        if name in self and _kind(self[name]) != _kind(entry):
            raise ValueError(f"{self.option}: {name!r} is {self[name]!r}, want another name for {entry!r}.")
        self[name] = entry

    def register(self, kind: Kind) -> Kind:
        """A decorator that adds a class under its attribute `name`; errors as for `add`."""
        self.add(getattr(kind, "name", ""), self.make(kind))
        return kind

    def __missing__(self, name: str) -> T:
        raise ValueError(f"{self.option}: got {name!r}, want one of {', '.join(sorted(self))}.")


def _kind(entry: object) -> tuple[str, str]:
    """Module and name of a class or of an instance's class: the same after a module was read again."""
    kind = entry if isinstance(entry, type) else type(entry)
    return kind.__module__, kind.__qualname__
