"""The usable clips among the rows of a data set, and a report on the others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from prolap.data import audio
from prolap.data.audio import NO_FILE
from prolap.data.batch import LEVELS
from prolap.utils.files import write_text
from prolap.utils.progress import Progress, reporter

THREADS = 8  # opening a file is mostly waiting for the disk
SLICE = 64  # rows that a thread takes at once
SHORTEST = 0.01  # seconds that are read of every file


@dataclass(frozen=True, slots=True)
class Row:
    """A clip as its data set describes it, not yet checked."""

    sound: str
    """What the data set calls it, for reports."""
    source: audio.Source | None
    """Where it should lie; None if it was looked for and not found."""
    captions: Sequence[object] = ()
    chain: object = ()
    """Four texts, general to specific, or nothing."""
    video: str = ""
    """YouTube id, or id@start with the start in seconds; empty if unknown."""
    error: str = ""
    """Why the row cannot be used, if that is known already."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A usable row."""

    path: audio.Source
    captions: tuple[str, ...]
    chain: tuple[str, ...]
    seconds: float
    video: str = ""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A row that cannot be used."""

    row: int
    """Counted from 1, without the CSV header and blank lines; in layouts that group rows, the clip's number."""
    audio: str
    reason: str


@dataclass(frozen=True)
class Report:
    """What became of the rows."""

    source: str
    """The path of a manifest, or the name of the data set."""
    used: int
    skipped: tuple[Skipped, ...]
    missing: int = 0
    """How many of the skipped have no file at all."""

    def write(self, path: str | Path) -> None:
        """As JSON, whole or not at all."""
        write_text(Path(path), json.dumps(asdict(self), indent=2, ensure_ascii=False))

    def __str__(self) -> str:
        text = f"{self.source}: {self.used} clips used, {len(self.skipped)} skipped"
        text += f" ({self.missing} of them without a file)" if self.missing else ""
        shown = [f"  row {skip.row}: {skip.audio or '(no audio)'}: {skip.reason}" for skip in self.skipped[:5]]
        more = [f"  and {len(self.skipped) - 5} more"] if len(self.skipped) > 5 else []
        return "\n".join([text, *shown, *more])


def entry(row: Row, shortest: float) -> Entry | str:
    """The usable row, or why it is not; the header and the first `shortest` seconds of the sound are read."""
    if row.error:
        return row.error
    texts = tuple(text.strip() for text in row.captions if isinstance(text, str) and text.strip())
    chain = row.chain or ()
    if not isinstance(chain, list | tuple) or not all(isinstance(text, str) and text.strip() for text in chain):
        return "chain must be a list of texts"
    if chain and len(chain) != LEVELS:
        return f"chain must have {LEVELS} texts, general to specific, got {len(chain)}"
    if not texts and not chain:
        return "no caption"
    if row.source is None:
        return NO_FILE
    try:
        header, held = audio.probe(row.source, max(shortest, SHORTEST))  # a header alone may promise too much
        if header.samples <= 0 or not held:
            return "no samples"
        if header.seconds < shortest:
            return f"{header.seconds:.3f} s long, shorter than data.min_seconds = {shortest:g}"
        if held + 1 < shortest * header.sample_rate:
            return f"ends after {held} samples, before data.min_seconds = {shortest:g}"
    except audio.AudioError as problem:
        return str(problem).removeprefix(f"{row.source}: ")
    return Entry(row.source, texts, tuple(text.strip() for text in chain), header.seconds, row.video)


def check_rows(
    rows: Sequence[Row], name: str, shortest: float = 0.0, progress: Progress | None = None
) -> tuple[list[Entry], Report]:
    """The usable rows and a report on all of them.

    name: of the data set, for the report. Sounds shorter than `shortest` seconds are skipped.
    Errors: ValueError if no row is usable.
    """
    entries: list[Entry] = []
    skipped: list[Skipped] = []
    slices = [rows[first : first + SLICE] for first in range(0, len(rows), SLICE)]
    with reporter(progress) as show_progress, ThreadPoolExecutor(THREADS) as pool:
        number = 0
        for results in pool.map(lambda part: [entry(row, shortest) for row in part], slices):
            for result in results:
                number += 1
                if isinstance(result, Entry):
                    entries.append(result)
                else:
                    skipped.append(Skipped(number, rows[number - 1].sound, result))
            show_progress(f"checking {Path(name).name}", number, len(rows))
    report = Report(name, len(entries), tuple(skipped), sum(skip.reason == NO_FILE for skip in skipped))
    if not entries:
        raise ValueError(f"no row is usable; {report}")
    return entries, report
