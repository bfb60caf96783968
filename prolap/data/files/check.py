"""A walk through a whole data set: every sound is decoded to its end, every caption read."""

from __future__ import annotations

import os
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from prolap.config import BaseConfig
from prolap.data import audio
from prolap.data.audio import NO_FILE
from prolap.data.files.entries import Row, entry
from prolap.data.files.overlap import Common, Sound, common, duplicates
from prolap.utils.progress import Progress, reporter

SILENT = 1e-4  # peak: -80 dB of full scale
FULL = 0.9999  # of full scale
CLIPPED = 1e-3  # share of samples at full scale from which a sound counts as clipped


@dataclass(frozen=True)
class Heard:
    """What decoding a sound tells."""

    seconds: float
    rate: int
    channels: int
    peak: float
    full: float
    """Share of the samples at full scale."""


@dataclass
class Findings:
    """What a split is like."""

    name: str
    clips: int = 0
    """Usable ones."""
    captions: list[int] = field(default_factory=list)
    """Of each usable clip, the texts of its chain included."""
    heard: list[Heard] = field(default_factory=list)
    long_captions: int | None = None
    """Captions longer than model.max_tokens; None if there is no tokenizer to tell."""
    missing: list[str] = field(default_factory=list)
    """Rows without a file."""
    unusable: dict[str, str] = field(default_factory=dict)
    """Rows that cannot be used for another reason than their sound: no caption, too short."""
    broken: dict[str, str] = field(default_factory=dict)
    """Sounds that cannot be decoded to the end."""
    silent: list[str] = field(default_factory=list)
    clipped: list[str] = field(default_factory=list)
    duplicates: list[Common] = field(default_factory=list)
    sounds: list[Sound] = field(default_factory=list)

    def document(self, config: BaseConfig) -> dict[str, Any]:
        """Everything as JSON can hold it."""
        seconds = [sound.seconds for sound in self.heard]
        longest = config.data.seconds
        hears = longest if config.data.eval_seconds is None else config.data.eval_seconds
        return {
            "name": self.name,
            "clips": self.clips,
            "captions": {"total": sum(self.captions), "per_clip": _counted(self.captions)},
            "seconds": {
                "min": min(seconds, default=None),
                "median": statistics.median(seconds) if seconds else None,
                "max": max(seconds, default=None),
                "total": sum(seconds),
            },
            "sample_rates": _counted(sound.rate for sound in self.heard),
            "channels": _counted(sound.channels for sound in self.heard),
            "longer_than": {
                "data.seconds": {"limit": longest, "sounds": sum(each > longest for each in seconds)},
                "data.eval_seconds": {"limit": hears, "sounds": sum(each > hears for each in seconds)},
                "model.max_tokens": {"limit": config.model.max_tokens, "captions": self.long_captions},
            },
            "missing": self.missing,
            "unusable": self.unusable,
            "broken": self.broken,
            "silent": self.silent,
            "clipped": self.clipped,
            "duplicates": [each._asdict() for each in self.duplicates],
        }


def _counted(values: Iterable[int]) -> dict[str, int]:
    return {str(value): count for value, count in sorted(Counter(values).items())}


def listen(source: audio.Source) -> Heard:
    """Decode a sound to its end.

    Errors: AudioError if that fails, samples are not finite, fewer come than the file promises, or parts are missing.
    """
    header = audio.info(source)
    samples, peak, full = 0, 0.0, 0
    for piece in audio.decoded(source):
        level = np.abs(piece)
        samples, peak, full = samples + len(piece), max(peak, float(level.max())), full + int((level >= FULL).sum())
    share = full / max(1, samples * header.channels)
    return Heard(samples / header.sample_rate, header.sample_rate, header.channels, peak, share)


def _visit(row: Row, shortest: float) -> tuple[Row, tuple[str, ...], Heard | None, str, str]:
    """(row, captions, what was heard, why it is unusable, why it is broken)."""
    if row.error or row.source is None:
        return row, (), None, row.error or NO_FILE, ""
    try:
        heard = listen(row.source)
    except audio.AudioError as error:
        reason = str(error).removeprefix(f"{row.source}: ")
        return row, (), None, *((reason, "") if reason == NO_FILE else ("", reason))
    usable = entry(row, shortest)
    if isinstance(usable, str):
        return row, (), heard, usable, ""
    return row, usable.captions + usable.chain, heard, "", ""


def check_split(
    rows: Sequence[Row],
    name: str,
    config: BaseConfig,
    count_tokens: Callable[[Sequence[str]], Sequence[int] | None] | None = None,
    progress: Progress | None = None,
) -> Findings:
    """Decode and count everything of a split; `count_tokens` gives the length of captions in tokens."""
    findings, texts = Findings(name), list[str]()
    with reporter(progress) as report, ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        visits = pool.map(lambda row: _visit(row, config.data.min_seconds), rows)
        for number, (row, captions, heard, unusable, broken) in enumerate(visits, 1):
            _note(findings, row, heard, unusable, broken)
            if captions:
                findings.clips += 1
                findings.captions.append(len(captions))
                texts += captions
            report(f"decoding {name}", number, len(rows))
    lengths = count_tokens(texts) if count_tokens is not None and texts else None
    if lengths is not None:
        findings.long_captions = sum(n > config.model.max_tokens for n in lengths)
    findings.duplicates = duplicates(findings.sounds, config.data.cache)
    return findings


def _note(findings: Findings, row: Row, heard: Heard | None, unusable: str, broken: str) -> None:
    if broken:
        findings.broken[row.sound] = broken
    elif unusable == NO_FILE:
        findings.missing.append(row.sound)
    elif unusable:
        findings.unusable[row.sound or f"row without a sound ({len(findings.unusable)})"] = unusable
    if heard is not None and row.source is not None:
        findings.heard.append(heard)
        findings.sounds.append(Sound(row.source, row.video))
        if heard.peak < SILENT:
            findings.silent.append(row.sound)
        if heard.full > CLIPPED:
            findings.clipped.append(row.sound)


def overlaps(splits: Sequence[Findings], folder: str | None) -> Iterator[tuple[str, str, list[Common]]]:
    """(name, name, sounds that both have) of every pair of splits."""
    for k, first in enumerate(splits):
        for second in splits[k + 1 :]:
            yield first.name, second.name, common(first.sounds, second.sounds, folder)
