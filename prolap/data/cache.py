"""Files that are made once and kept, written whole or not at all; among them log-mels of whole sounds."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from prolap.config import DataConfig
from prolap.data import audio, features
from prolap.data.files.tar import Member
from prolap.utils.files import atomic

try:
    import fcntl
except ImportError:  # Windows: unfinished files stay
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)
FORMAT = 2  # of the files of log-mels: raise it when they change
DIGEST = 16  # bytes of a checksum
LONGEST = 3600.0  # seconds of a sound whose log-mel is kept
SETTLED = 60.0  # seconds


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
def written(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that appears under `path` whole or not at all; what killed processes left in its folder is removed.

    An unfinished file is locked by its process, and locks die with theirs, on other hosts too.
    """
    remove_leftovers(path.parent)
    with atomic(path) as file:
        if fcntl is not None:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield file


def remove_leftovers(folder: Path) -> None:
    """Remove unfinished files that nobody writes any more: unlocked, and unchanged for `SETTLED` seconds."""
    for path in folder.glob(".*.tmp") if fcntl is not None else ():
        with contextlib.suppress(OSError), path.open("rb") as file:  # gone meanwhile, or locked by who writes it
            if (
                time.time() - os.fstat(file.fileno()).st_mtime > SETTLED
            ):  # before its lock, and between that and its name
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()


def checksum(content: bytes | memoryview, name: str) -> bytes:
    """Sixteen bytes that stand for the content under this name (64 bytes at most): files and blocks cannot be swapped."""
    return hashlib.blake2b(content, digest_size=DIGEST, key=name.encode()).digest()


def save_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write an .npz file with a checksum of all its bytes behind it, whole or not at all."""
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written(path) as file:
        file.write(content.getbuffer())
        file.write(checksum(content.getbuffer(), path.name))


def load_arrays(
    path: Path, is_whole: Callable[[dict[str, np.ndarray]], bool], what: str
) -> dict[str, np.ndarray] | None:
    """The arrays of a file of `save_arrays`; None if it is missing or, with a warning that calls it `what`, damaged.

    is_whole: whether the arrays are of the kind that was asked for.
    """
    try:
        content = path.read_bytes()
        if checksum(content[:-DIGEST], path.name) != content[-DIGEST:]:
            raise ValueError("its checksum is another")
        with np.load(io.BytesIO(content[:-DIGEST]), allow_pickle=False) as file:
            arrays = dict(file)
        if is_whole(arrays):
            return arrays
        reason = "it does not hold what was written"
    except FileNotFoundError:
        return None
    except Exception as error:  # of a forged file, whose checksum is right: whatever numpy and zipfile meet in it
        reason = str(error) or type(error).__name__
    log.warning("%s %s is damaged (%s) and is made again", what, path, reason)
    return None


def stamp(source: audio.Source) -> tuple[object, ...]:
    """What changes when the sound does: absolute path, size, time of the last change; of a member, its place too."""
    path = source.archive if isinstance(source, Member) else source
    status = os.stat(path)
    part = (source.offset, source.size) if isinstance(source, Member) else ()
    folder, name = os.path.split(path)
    return (_absolute(folder), name, status.st_size, status.st_mtime_ns, *part)


@functools.lru_cache(maxsize=1024)
def _absolute(folder: str) -> str:
    return os.path.realpath(folder)


class LogMelCache:
    """One file a sound, in a folder named after the recipe.

    Kept as float16, half the disk of float32: off by at most 1/2048 of the value, so by 0.004 at 8 standard deviations and
    by 0.03 dB at -64 dB. AudioCaps takes 176 kB a clip at 64 mels and 138 frames a second, so 9 GB in all. Files carry a
    checksum of all their bytes; a damaged one is made again. Several processes may share a folder. Of a sound longer than
    `LONGEST` only its beginning is kept, or as much as the options hear.
    """

    def __init__(self, config: DataConfig) -> None:
        self.seconds = max(LONGEST, config.seconds, config.eval_seconds or 0.0)
        recipe = (config.features, config.sample_rate, config.mels, config.window, config.hop, self.seconds)
        name = key(format=FORMAT, version=features.VERSION, recipe=recipe)
        self.folder = folder(config.cache) / f"logmels-{name}"
        self.mels = config.mels

    def path(self, source: audio.Source) -> Path:
        """Where the log-mel of a sound is kept."""
        name = key(sound=stamp(source))
        return self.folder / name[:2] / f"{name}.npz"

    def get(self, source: audio.Source, make: Callable[[], Tensor]) -> Tensor:
        """The log-mel [frames, mels] float16 of the first `seconds` of a sound; `make` computes it if it is not there."""
        path = self.path(source)
        arrays = load_arrays(path, self._is_log_mel, "the cached log-mel")
        if arrays is not None:
            mel = arrays["mel"]
        else:
            mel = make().numpy().astype(np.float16)
            save_arrays(path, mel=mel)
        # rounded whether it was just made or read, so that a resumed run sees the same
        return torch.from_numpy(mel)

    def _is_log_mel(self, arrays: dict[str, np.ndarray]) -> bool:
        mel = arrays["mel"]
        return mel.ndim == 2 and len(mel) > 0 and mel.shape[1] == self.mels and mel.dtype == np.float16
