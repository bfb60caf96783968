"""Named entries of one kind: encoders, layouts of data sets. Other modules may register more."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
Entry = TypeVar("Entry")


class Registry(dict[str, T]):
    """Name -> entry; asking for a name that is not there is a ValueError that lists those that are."""

    def __init__(self, option: str) -> None:
        """option: what names an entry, for messages."""
        super().__init__()
        self.option = option

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """A decorator that puts a class or function under this name. Errors: ValueError if another has it already."""

        def put(entry: Entry) -> Entry:
            if self.get(name, entry) is not entry:
                raise ValueError(f"{self.option}: {name!r} is {self[name]!r} already, want another name for {entry!r}.")
            self[name] = entry  # type: ignore[assignment]
            return entry

        return put

    def __missing__(self, name: str) -> T:
        raise ValueError(f"{self.option}: got {name!r}, want one of {', '.join(sorted(self))}.")
