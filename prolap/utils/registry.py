"""Entries by name: encoders, layouts of data sets. A module of a user's own may add more."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


class Registry(dict[str, T]):
    """Name -> entry; asking for a name that is not there is a ValueError that lists those that are."""

    def __init__(self, option: str) -> None:
        """option: what names an entry, for messages."""
        super().__init__()
        self.option = option

    def add(self, name: str, entry: T) -> None:
        """Put an entry under a name. Errors: ValueError if there is no name, or another kind of entry has it already."""
        if not isinstance(name, str) or not name:
            raise ValueError(f"{self.option}: got {name!r} as the name of {entry!r}, want a text.")
        if name in self and _kind(self[name]) != _kind(entry):
            raise ValueError(f"{self.option}: {name!r} is {self[name]!r}, want another name for {entry!r}.")
        self[name] = entry

    def __missing__(self, name: str) -> T:
        raise ValueError(f"{self.option}: got {name!r}, want one of {', '.join(sorted(self))}.")


def _kind(entry: object) -> tuple[str, str]:
    """Module and name of a class or of an instance's class: the same after a module was read again."""
    kind = entry if isinstance(entry, type) else type(entry)
    return kind.__module__, kind.__qualname__
