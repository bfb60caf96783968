"""A walk through a whole data set: every sound is decoded to its end, every caption read."""

from __future__ import annotations

import os
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from prolap.config import BaseConfig
from prolap.data import audio
from prolap.data.audio import NO_FILE
from prolap.data.files.entries import Entry, Row, entry
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
    """Of each usable clip; a text of its chain that says one of them again does not count."""
    heard: list[Heard] = field(default_factory=list)
    long_captions: int | None = None
    """Captions cut at model.max_tokens; None if there is no tokenizer to tell."""
    words: int = 0
    unknown_words: int | None = None
    """Of the `words`, those that the vocabulary does not have; None if there is no vocabulary, or it has every word."""
    repeated: list[str] = field(default_factory=list)
    """Captions that a clip has twice."""
    shared: dict[str, int] = field(default_factory=dict)
    """Captions that serve as queries of several clips -> of how many."""
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
            "unknown_words": None
            if self.unknown_words is None
            else {"words": self.words, "unknown": self.unknown_words},
            "repeated_captions": {"within": self.repeated, "across": self.shared},
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


class Tokenizer(Protocol):
    """What is needed of one; it cuts nothing."""

    @property
    def unknown(self) -> int | None:
        """The token of words that it does not know; None if there are no such words."""
        ...

    def ids(self, text: str) -> list[int]: ...

    def __call__(self, texts: Sequence[str]) -> Tensor: ...


class _Visit(NamedTuple):
    """What became of a row."""

    row: Row
    usable: Entry | None = None
    heard: Heard | None = None
    unusable: str = ""
    """Why, if it cannot be used for another reason than its sound."""
    broken: str = ""
    """Why the sound cannot be decoded to its end."""


def _visit(row: Row, shortest: float) -> _Visit:
    if row.error or row.source is None:
        return _Visit(row, unusable=row.error or NO_FILE)
    try:
        heard = listen(row.source)
    except audio.AudioError as error:
        reason = str(error).removeprefix(f"{row.source}: ")
        return _Visit(row, unusable=reason) if reason == NO_FILE else _Visit(row, broken=reason)
    usable = entry(row, shortest)
    return _Visit(row, None, heard, usable) if isinstance(usable, str) else _Visit(row, usable, heard)


def check_split(
    rows: Sequence[Row],
    name: str,
    config: BaseConfig,
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> Findings:
    """Decode and count everything of a split; `tokenizer` tells what the text encoder would read."""
    findings, texts, queries = Findings(name), list[str](), Counter[str]()
    with reporter(progress) as report, ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        visits = pool.map(lambda row: _visit(row, config.data.min_seconds), rows)
        for number, visit in enumerate(visits, 1):
            _note(findings, visit)
            if visit.usable is not None:
                findings.clips += 1
                texts += _captions(findings, visit.row, visit.usable, queries)
            report(f"decoding {name}", number, len(rows))
    findings.shared = {text: clips for text, clips in queries.most_common() if clips > 1}
    if tokenizer is not None:
        _read(findings, texts, tokenizer, config.model.max_tokens)
    findings.duplicates = duplicates(findings.sounds, config.data.cache)
    return findings


def _captions(findings: Findings, row: Row, usable: Entry, queries: Counter[str]) -> list[str]:
    """Count the captions of a clip, those alike but for case and spaces as one with those of its chain; the texts."""
    plain = [_plain(text) for text in usable.captions]
    own = set(plain)
    findings.repeated += [f"{row.sound}: {text}" for text, count in Counter(plain).items() if count > 1]
    queries.update(own or {_plain(usable.chain[-1])})
    more = {_plain(text): text for text in usable.chain}
    texts = [*usable.captions, *(text for key, text in more.items() if key not in own)]
    findings.captions.append(len(texts))
    return texts


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _read(findings: Findings, texts: Sequence[str], tokenizer: Tokenizer, limit: int) -> None:
    """Count what is lost on the way to the text encoder."""
    findings.long_captions = sum(tokenizer([text]).shape[1] > limit for text in texts)  # one text alone is not padded
    if tokenizer.unknown is not None:
        words = [word for text in texts for word in tokenizer.ids(text)]
        findings.words, findings.unknown_words = len(words), words.count(tokenizer.unknown)


def _note(findings: Findings, visit: _Visit) -> None:
    row, heard = visit.row, visit.heard
    if visit.broken:
        findings.broken[row.sound] = visit.broken
    elif visit.unusable == NO_FILE:
        findings.missing.append(row.sound)
    elif visit.unusable:
        findings.unusable[row.sound or f"row without a sound ({len(findings.unusable)})"] = visit.unusable
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
