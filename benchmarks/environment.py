"""What a figure was measured on: without it a figure says nothing."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
PACKAGES = ("torch", "triton", "numpy", "siglip-kernel", "memeff", "inf-cl", "pykeops")
SOURCES = ("prolap_kernels", "benchmarks")


def _git(*args: str) -> str:
    try:
        done = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _sources() -> str:
    """A hash of the code that was measured, for a copy of it without version control."""
    digest = hashlib.sha256()
    for path in sorted(p for folder in SOURCES for p in (ROOT / folder).rglob("*.py")):
        digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _gpu() -> dict[str, object]:
    found = torch.cuda.get_device_properties(0)
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        driver = ""
    return {
        "capability": f"{found.major}.{found.minor}",
        "processors": found.multi_processor_count,
        "memory_bytes": found.total_memory,
        "driver": driver.splitlines()[0] if driver else "unknown",
        "cuda": torch.version.cuda or torch.version.hip,
    }


def stamp(device: str) -> dict[str, object]:
    """Device, versions, commit and whether files differ from it (None: unknown), time."""
    name = torch.cuda.get_device_name() if device == "cuda" else _processor()
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    commit = _git("rev-parse", "HEAD")
    return {
        "device": name,
        **({"gpu": _gpu()} if device == "cuda" else {}),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "versions": versions,
        "commit": commit or "unknown",
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")) if commit else None,
        "sources": _sources(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
