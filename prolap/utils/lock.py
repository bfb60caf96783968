"""One writer at a time in a folder, by a lock that the system drops when its process dies.

The lock is a POSIX record lock (`fcntl.lockf`): it works over NFSv4, and worker processes do not inherit it, so that a killed
trainer's workers, which live on for seconds, hold nothing. `flock`, which the package filelock uses, is inherited.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from prolap.utils.files import DamagedFile, parse_json, writing

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"
POLL_SECONDS = 0.5
_HELD: dict[Path, int] = {}
"""Folder -> the process that holds it: a record lock does not keep out its own process."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class FolderInUse(RuntimeError):
    """Another process, or another thread of this one, writes into the folder; the message says which."""


@contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a folder, which is made if missing, and left as it was if nothing was written into it.

    wait: until whoever holds it is done, with one warning, instead of FolderInUse.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    folder, path = folder.resolve(), folder.resolve() / NAME
    waiting = False
    while True:
        if _HELD.get(folder) == os.getpid():
            message = f"{folder} is written by this process already"
        elif (handle := _take(path)) is not None:
            break
        else:
            message = f"{folder} is written by {_holder(path)}"
        if not wait:
            raise FolderInUse(f"{message}; `--wait` (wait=True in Python) waits until it is done.")
        if not waiting:
            warnings.warn(f"{message}; waiting until it is done.", RuntimeWarning, stacklevel=3)
        waiting = True
        time.sleep(POLL_SECONDS)
        folder.mkdir(parents=True, exist_ok=True)  # whoever held it may have removed an empty folder
    _HELD[folder] = os.getpid()
    try:
        yield
    finally:
        del _HELD[folder]
        path.unlink(missing_ok=True)  # before the lock is given up: see `_take`
        os.close(handle)
        if not any(folder.iterdir()):
            folder.rmdir()


def _take(path: Path) -> int | None:
    """The open, locked file; None if another process has it."""
    while True:
        with writing(path):
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if fcntl is not None:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(handle)
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    return None
                raise
            message = f"{path.parent}: the file system has no locks, so nothing keeps out a second writer."
            warnings.warn(message, RuntimeWarning, stacklevel=4)
        if _is_at(handle, path):
            with writing(path):
                os.ftruncate(handle, 0)
                os.write(handle, json.dumps(_self()).encode())
            return handle
        os.close(handle)  # removed by the one before between opening and locking: it locks nothing


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _self() -> dict[str, object]:
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": now}


def _holder(path: Path) -> str:
    try:
        about = parse_json(path.read_bytes(), path)
    except (OSError, DamagedFile):  # it has just begun, or just ended
        about = {}
    host, pid, since = (about.get(name, "unknown") for name in ("host", "pid", "since"))
    return f"another process (host {host}, pid {pid}, since {since})"
