"""Training sounds that also occur in dev or test: figures from such data are worth nothing.

Two sounds are the same if their bytes are, or if they are said to come from the same YouTube video (and the same start,
where both say one). A sound in another encoding and under another name is not found.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Literal, NamedTuple

from prolap.data import audio, cache
from prolap.data.files.tar import Member
from prolap.utils.files import write_text

log = logging.getLogger(__name__)
ENDS = 1 << 15  # bytes hashed at either end before anything is hashed whole
SHOWN = 5


class Sound(NamedTuple):
    """A sound by its place, and by the video that it comes from."""

    source: audio.Source
    video: str = ""


class Common(NamedTuple):
    """A sound that occurs twice, and what of it is the same."""

    first: str
    second: str
    same: Literal["content", "video"]

    def __str__(self) -> str:
        return f"{self.first} = {self.second} ({self.same})"


def common(first: Sequence[Sound], second: Sequence[Sound], folder: str | None = None) -> list[Common]:
    """The sounds of the second data set that also occur in the first, each with one of those that it equals.

    folder: of the cache, where hashes are kept. Files that are not there are left out.
    """
    with Digests(folder) as digests:
        by_content = _Contents(first, digests)
        by_id: dict[str, list[Sound]] = defaultdict(list)
        for sound in first:
            if sound.video:
                by_id[sound.video.partition("@")[0]].append(sound)
        shared = []
        for sound in second:
            if (other := by_content.find(sound.source)) is not None:
                shared.append(Common(str(other), str(sound.source), "content"))
                continue
            name, _, start = sound.video.partition("@")
            starts = [(each, each.video.partition("@")[2]) for each in by_id.get(name, [])] if name else []
            if original := next((each for each, its in starts if not start or not its or start == its), None):
                shared.append(Common(str(original.source), str(sound.source), "video"))
    return shared


def duplicates(sounds: Sequence[Sound], folder: str | None = None) -> list[Common]:
    """Sounds of one data set with the same bytes as one before them."""
    with Digests(folder) as digests:
        contents, repeated = _Contents([], digests), []
        for sound in sounds:
            if (other := contents.find(sound.source)) is not None:
                repeated.append(Common(str(other), str(sound.source), "content"))
            contents.add(sound.source)
    return repeated


def report(training: str, other: str, shared: Sequence[Common], mode: Literal["error", "warn"]) -> None:
    """Say which sounds two data sets share: ValueError for `error`, else a line in the log; nothing if there are none."""
    if not shared:
        return
    shown = "; ".join(map(str, shared[:SHOWN])) + (f"; and {len(shared) - SHOWN} more" if len(shared) > SHOWN else "")
    text = f"data.overlap: {len(shared)} sounds of {other} also occur in {training}: {shown}"
    if mode == "error":
        raise ValueError(f"{text}. Take them out of training, or go on with data.overlap=warn.")
    log.warning("%s", text)


class _Contents:
    """Sounds by content. Only files of equal size are compared, by the hash of their ends, then of all their bytes."""

    def __init__(self, sounds: Iterable[Sound], digests: Digests) -> None:
        self._digests = digests
        self._by_size: dict[int, list[audio.Source]] = defaultdict(list)
        self._by_ends: dict[int, dict[str, list[audio.Source]]] = {}
        for sound in sounds:
            self.add(sound.source)

    def add(self, source: audio.Source) -> None:
        if (size := _size(source)) is not None:
            self._by_size[size].append(source)
            if size in self._by_ends:
                self._by_ends[size].setdefault(self._digests.ends(source), []).append(source)

    def find(self, source: audio.Source) -> audio.Source | None:
        """A sound with the same bytes."""
        size = _size(source)
        if size is None or size not in self._by_size:
            return None
        if size not in self._by_ends:
            known: dict[str, list[audio.Source]] = {}
            for other in self._by_size[size]:
                known.setdefault(self._digests.ends(other), []).append(other)
            self._by_ends[size] = known
        alike = self._by_ends[size].get(self._digests.ends(source), [])
        if size <= 2 * ENDS:  # the ends were all of it
            return alike[0] if alike else None
        return next((other for other in alike if self._digests.whole(other) == self._digests.whole(source)), None)


def _size(source: audio.Source) -> int | None:
    """Bytes; None if it is no file."""
    if isinstance(source, Member):
        return source.size
    try:
        status = os.stat(source)
    except (OSError, ValueError):  # ValueError: a null character in the name
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


class Digests:
    """Hashes of files, kept in the cache folder under what changes when a file does."""

    def __init__(self, folder: str | None) -> None:
        self.path = cache.folder(folder) / "digests.json"
        self._known: dict[str, str] = {}
        self._new = 0

    def __enter__(self) -> Digests:
        try:
            checksum, _, content = self.path.read_bytes().partition(b"\n")
            if checksum.decode() == cache.checksum(content, self.path.name).hex():
                self._known = json.loads(content)
        except (OSError, ValueError, RecursionError):
            pass  # missing or damaged: everything is hashed anew
        return self

    def __exit__(self, *_: object) -> None:
        if self._new:
            content = json.dumps(self._known)
            write_text(self.path, f"{cache.checksum(content.encode(), self.path.name).hex()}\n{content}")

    def ends(self, source: audio.Source) -> str:
        """Of the first and last bytes; of the whole file if it is small."""
        return self._get("ends", source)

    def whole(self, source: audio.Source) -> str:
        """Of all bytes."""
        return self._get("whole", source)

    def _get(self, kind: str, source: audio.Source) -> str:
        name = cache.key(kind=kind, sound=cache.stamp(source))
        if name not in self._known:
            with source.open() if isinstance(source, Member) else Path(source).open("rb") as file:
                self._known[name] = _hash(file, whole=kind == "whole", size=_size(source) or 0)
            self._new += 1
        return self._known[name]


def _hash(file: IO[bytes], whole: bool, size: int) -> str:
    digest = hashlib.blake2b(digest_size=16)
    if whole or size <= 2 * ENDS:
        while piece := file.read(1 << 20):
            digest.update(piece)
    else:
        digest.update(file.read(ENDS))
        file.seek(size - ENDS)
        digest.update(file.read(ENDS))
    return digest.hexdigest()
