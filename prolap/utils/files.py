"""Files that survive a crash, written whole or not at all, and files of text read without trust."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


class DamagedFile(ValueError):
    """A file that does not hold what it should; the message is one sentence that names it."""


class WriteError(OSError):
    """A file or folder that cannot be written; the message is one sentence that names it."""

    def __str__(self) -> str:
        return f"cannot write {self.filename}: {self.strerror}."


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Lets an OSError inside say what was being written: a full disk alone names no path."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        raise WriteError(error.errno, error.strerror or str(error), str(path)) from error


def sync(path: Path) -> None:
    """Push a file or folder to the disk; a file system that cannot sync folders is left alone."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:  # Windows cannot open folders
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that appears under `path` complete and on the disk, or not at all if the block raises."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")  # several processes may write the same file
    try:
        with writing(path):
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Replace the file, whole or not at all."""
    with writing(path), atomic(path) as file:
        file.write(text.encode())
    sync(path.parent)


_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
_WRITING = "writing"


@contextmanager
def atomic_folder(path: Path, mark: str) -> Iterator[Path]:
    """An empty folder to write into that then takes the place of `path` as a whole, or is removed if the block raises.

    mark: the file that such a folder has. Linux exchanges both folders in one call; elsewhere there is a moment with neither.
    What a killed writer left is removed. Errors: FileExistsError if `path` holds something and not `mark`.
    """
    path = path.absolute()
    if path.exists() and not (path / mark).is_file() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path} is not a folder with {mark}, and is not empty; choose another folder.")
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}.{_WRITING}-*"):
        shutil.rmtree(left, ignore_errors=True)
    temporary = path.with_name(f".{path.name}.{_WRITING}-{uuid.uuid4().hex}")
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.iterdir():
            sync(file)
        sync(temporary)
        if not path.exists():
            temporary.rename(path)
        elif not _exchange(temporary, path):
            old = temporary.with_name(f"{temporary.name}-old")
            path.rename(old)
            temporary.rename(path)
            shutil.rmtree(old, ignore_errors=True)
        sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change names in one call; False where the system or file system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    if rename is None:
        return False
    if rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS):
        return False
    raise OSError(number, os.strerror(number), str(other))


def read_text(path: Path) -> str:
    """The text of a regular file. Errors: FileNotFoundError, OSError, DamagedFile for anything but UTF-8 in a file."""
    if path.exists() and not path.is_file():  # opening a pipe would wait for ever
        raise DamagedFile(f"{path} is not a file.")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DamagedFile(f"{path} is not text in UTF-8.") from error


def parse_json(text: str | bytes, name: object) -> dict[str, Any]:
    """The JSON object in a text; DamagedFile, which names the file `name`, for anything else."""
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise DamagedFile(f"{name} is not valid JSON: nested too deeply.") from error
    except ValueError as error:  # no JSON, no UTF-8, a number of thousands of digits
        raise DamagedFile(f"{name} is not valid JSON: {error}.") from error
    if not isinstance(content, dict):
        raise DamagedFile(f"{name} holds no JSON object.")
    return content


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; errors as those of `read_text` and `parse_json`."""
    return parse_json(read_text(path), path)


def read_rows(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """The rows of a JSONL log, objects with a whole number `step`, and the numbers of lines that are none.

    A last line without its end was cut by a kill: it is left out and not counted.
    """
    rows, damaged = [], []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            row = parse_json(line, path)
            if type(row["step"]) is not int:
                raise DamagedFile
            rows.append(row)
        except (DamagedFile, KeyError):
            damaged.append(number)
    return rows, damaged


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_tensors(path: Path, tensors: dict[str, Any]) -> None:
    """Write a safetensors file and push it to the disk; WriteError if that fails."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file({key: value.detach().contiguous().cpu() for key, value in tensors.items()}, path)
    except SafetensorError as error:
        raise WriteError(None, str(error), str(path)) from error
    path.chmod(path.parent.stat().st_mode & 0o666)  # safetensors gives a file to its owner alone, whatever the umask
    sync(path)
