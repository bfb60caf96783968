"""Files inside uncompressed tar archives, read where they lie."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple


class Member(NamedTuple):
    """One file of an archive."""

    archive: Path
    name: str
    """With its folders inside the archive."""
    offset: int
    """Of the first byte, from the start of the archive."""
    size: int
    """Bytes."""

    def __str__(self) -> str:
        return f"{self.archive}/{self.name}"

    def open(self) -> IO[bytes]:
        """The member as a binary file that can seek; only what is read of it is read from the disk."""
        return io.BufferedReader(_Window(self.archive, self.offset, self.size))


class _Window(io.RawIOBase):
    """`size` bytes of a file from `offset` on, as a file of their own."""

    def __init__(self, path: Path, offset: int, size: int) -> None:
        self._file = path.open("rb", buffering=0)
        self._offset, self._size, self._at = offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        room = max(0, min(len(buffer), self._size - self._at))
        self._file.seek(self._offset + self._at)
        count = self._file.readinto(memoryview(buffer)[:room]) or 0
        self._at += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def members(archive: Path) -> Iterator[Member]:
    """The regular files of an archive in their order.

    Errors: ValueError if it is compressed (nothing can be read from the middle of it), damaged, or no archive.
    """
    if not archive.is_file():  # a pipe would wait for ever
        raise ValueError(f"{archive} is no uncompressed tar archive (want a file)")
    try:
        with tarfile.open(archive, mode="r:") as file:
            for member in file:
                if member.isreg() and not member.issparse():
                    yield Member(archive, member.name, member.offset_data, member.size)
    except tarfile.TarError as error:
        raise ValueError(f"{archive} is no uncompressed tar archive, or a damaged one ({error})") from error
