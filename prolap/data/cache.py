"""Files that are made once and kept: written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

Progress = Callable[[str, int, int], None]
"""Called as progress(what, done, total)."""


def folder(cache: str | None) -> Path:
    """The given folder, or the user's cache folder; made if missing."""
    if cache is None:
        import platformdirs

        path = Path(platformdirs.user_cache_dir("prolap"))
    else:
        path = Path(cache).expanduser()
    path.mkdir(parents=True, exist_ok=True)
    return path


def key(**facts: object) -> str:
    """Sixteen hexadecimal digits that stand for all the facts a file depends on."""
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that appears under `path` complete and on the disk, or not at all if the block raises."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


@contextlib.contextmanager
def reporter(progress: Progress | None) -> Iterator[Progress]:
    """The given callback, or a bar in the terminal."""
    if progress is not None:
        yield progress
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, int] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)  # type: ignore[arg-type]

        yield show
