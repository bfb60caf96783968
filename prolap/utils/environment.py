"""Where a run runs: the installed packages, their versions and the machine, on which its bits depend."""

from __future__ import annotations

import platform
import subprocess
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import torch

from prolap.utils import __version__

_PACKAGES = ("torch", "torchaudio", "triton", "numpy")


def optional(module: str, need: str, extra: str = "train") -> Any:
    """A module that only some uses need. Errors: ModuleNotFoundError that says `need`, and how the extra is installed."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ModuleNotFoundError(f"{need}: pip install prolap[{extra}]") from error


def versions(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Versions, processor, threads and commit; None for what is not installed or not known."""
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
        "prolap": __version__,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": processor(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else str(device),
        "commit": commit(),
    }


def pick_device(name: str) -> torch.device:
    """The device of a name; `auto` is a GPU if there is one. Errors: ValueError for no device, or a GPU that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device: got {name!r}, want auto, cpu, cuda or cuda:<number>.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device: got {name!r}, but torch finds no GPU.")
    return device


def commit() -> str | None:
    """The git commit of the source tree that this package runs from, if it is one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def version(package: str) -> str | None:
    """The installed version; None if the package is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def processor() -> str | None:
    """The model of the processor, if it is known."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or None
