"""Result files: what their figures were measured on, written whole or not at all, read back and shown as tables."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from prolap.utils import environment
from prolap.utils.files import write_text

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("torch", "triton", "numpy", "siglip-kernel", "memeff", "inf-cl", "pykeops")
SOURCES = ("prolap_kernels", "benchmarks")
UNMEASURED = "Not measured yet."
Row = dict[str, Any]


def _output(*command: str) -> str:
    """What a command prints, empty where there is no such command."""
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def hash_of_sources() -> str:
    """Identifies the measured code where there is no version control."""
    digest = hashlib.sha256()
    for path in sorted(p for folder in SOURCES for p in (ROOT / folder).rglob("*.py")):
        digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _gpu() -> Row:
    properties = torch.cuda.get_device_properties(0)
    drivers = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").splitlines()
    return {
        "capability": f"{properties.major}.{properties.minor}",
        "processors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "driver": drivers[0] if drivers else "unknown",
        "cuda": torch.version.cuda or torch.version.hip,
    }


def argument_parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """The parser of `python -m benchmarks.MODULE`, whose help shows the description as it is written."""
    show = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(prog=f"python -m benchmarks.{module}", description=description, formatter_class=show)


def stamp(device: str) -> Row:
    """Device, versions, commit, whether tracked files differ from it (None: unknown), and time."""
    commit = environment.commit()
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else environment.processor(),
        **({"gpu": _gpu()} if device == "cuda" else {}),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "versions": {"python": platform.python_version()}
        | {package: environment.version(package) for package in PACKAGES},
        "commit": commit or "unknown",
        "dirty": bool(_output("git", "status", "--porcelain", "--untracked-files=no")) if commit else None,
        "sources": hash_of_sources(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def write_json(path: Path, content: Row) -> None:
    """Writes the file whole or not at all, whenever the run is stopped."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, indent=1) + "\n")


def load(name: str) -> Any:
    """The content of a result file, None where there is none."""
    path = RESULTS / name
    return json.loads(path.read_text()) if path.is_file() else None


def shows(name: str) -> Callable[[Callable[[Row], str]], Callable[[], str]]:
    """A decorator for a section of a document about one result file: reads the file, and says so if there is none."""

    def decorate(section: Callable[[Row], str]) -> Callable[[], str]:
        return lambda: UNMEASURED if (record := load(name)) is None else section(record)

    return decorate


def origin(record: Row) -> str:
    """Device, threads, versions, commit (+: tracked files differed from it)."""
    versions, gpu = record["versions"], "gpu" in record
    code = f"commit {record['commit'][:7]}{'+' if record['dirty'] else ''}"
    return ", ".join([
        record["device"],
        *([] if gpu else [f"{record['threads']} threads"]),
        f"torch {versions['torch']}",
        *([f"triton {versions['triton']}"] if gpu else []),
        code if record["commit"] != "unknown" else f"sources {record['sources']}",
    ])  # fmt: skip


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def shape_text(row: Row) -> str:
    return " × ".join(f"{size:,}" for size in row["shape"])


def ratio_text(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def _digits(row: Row) -> int:
    return 0 if row["seconds"] >= 0.1 else 1 if row["seconds"] >= 0.01 else 3


def ms_text(row: Row, digits: int | None = None) -> str:
    """Median."""
    return f"{1e3 * row['seconds']:,.{_digits(row) if digits is None else digits}f}"


def quartiles_text(row: Row, digits: int | None = None) -> str:
    """Median, and quartiles behind it."""
    digits = _digits(row) if digits is None else digits
    low, high = (f"{1e3 * q:,.{digits}f}" for q in row["quartiles"])
    return f"{ms_text(row, digits)} ({low}–{high})"


def mb_text(row: Row) -> str:
    size = row.get("peak_bytes")
    return "-" if size is None else f"{size / 1e6:,.0f}"


def at_path(metrics: Any, path: str) -> Any:
    """metrics["a"]["b"] for "a.b"; None where there is nothing."""
    for key in path.split("."):
        metrics = metrics.get(key) if isinstance(metrics, dict) else None
    return metrics
