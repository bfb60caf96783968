"""Reading public files without running what is in them."""

from __future__ import annotations

import contextlib
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prolap.utils.files import DamagedFile, read_json
from prolap.weights.checkpoint import CheckpointError

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""What the weights are called in a folder of Hugging Face."""
_NUMPY_SCALARS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype")


class _Ignored:
    """Stands in for numpy's numbers (the best metric, the epoch), which some training checkpoints hold; keeps nothing."""

    def __init__(self, *arguments: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def weights_of(path: Path) -> Path:
    """The file itself, or the one with the weights in a folder.

    Errors: CheckpointError if there is none.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(f"init: {path} is not there.")
    files = [path / name for name in WEIGHTS if (path / name).is_file()]
    if not files:
        raise CheckpointError(f"init: {path} holds neither a checkpoint of prolap nor {' nor '.join(WEIGHTS)}.")
    return files[0]


def read_config(path: Path) -> dict[str, Any] | None:
    """The config.json in the folder, or beside the file; None without one."""
    file = (path if path.is_dir() else path.parent) / "config.json"
    if not file.is_file():
        return None
    try:
        return read_json(file)
    except (OSError, DamagedFile) as error:
        raise CheckpointError(f"init: {file} cannot be read: {str(error).removesuffix('.')}.") from error


def read(file: Path) -> Mapping[str, Any]:
    """The content of a .safetensors file or of what torch.save wrote, mapped into memory; no code of the file runs.

    Errors: CheckpointError for a damaged file, and for one with other objects than tensors, plain values and numpy's
    numbers, which are named.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        mapped = zipfile.is_zipfile(file)  # the older form of torch's files cannot be mapped
        allowed: list[Any] = [(_Ignored, name) for name in _NUMPY_SCALARS]
        with torch.serialization.safe_globals(allowed):
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_refused(file)) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, SafetensorError) as error:
        if "weights_only" in str(error):  # of TorchScript and tar files
            raise CheckpointError(_refused(file)) from error
        raise CheckpointError(f"init: {file} cannot be read: {' '.join(str(error).split()).rstrip('.')}.") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"init: {file} holds a {type(content).__name__}, want tensors by name.")
    return content


def tensors_only(content: dict[str, Any], file: Path) -> dict[str, Tensor]:
    """The content itself; CheckpointError if it holds anything but tensors."""
    other = [name for name, value in content.items() if not isinstance(value, Tensor)]
    if other:
        raise CheckpointError(f"init: {file} holds something else than tensors under {', '.join(other)}.")
    return content


def _refused(file: Path) -> str:
    names: list[str] = []
    if zipfile.is_zipfile(file):
        with contextlib.suppress(Exception):  # it reads the same damaged file
            unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(file)
            names = sorted(name for name in unsafe if name not in _NUMPY_SCALARS)
    if not names:
        # torch's own words advise to read it with code, which nobody should follow
        return f"init: {file} cannot be read: it is damaged, or neither safetensors nor what torch.save wrote."
    return (
        f"init: {file} holds objects that could run code when they are read ({', '.join(names)}), which is refused; save "
        "the weights alone, as a dict of tensors by name."
    )
