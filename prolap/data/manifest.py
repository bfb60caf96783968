"""Real files: a manifest names the audio and its captions; what cannot be used is reported and skipped."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prolap.config import DataConfig
from prolap.data import audio, cache
from prolap.data.batch import LEVELS
from prolap.data.dataset import Caption
from prolap.data.features import LogMel
from prolap.seeding import numpy_generator

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """A usable row of a manifest."""

    path: Path
    captions: tuple[str, ...]
    chain: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Skipped:
    """A row that cannot be used."""

    row: int
    """Counted from 1, without the CSV header and blank lines."""
    audio: str
    reason: str


@dataclass(frozen=True)
class Report:
    """What became of the rows of a manifest."""

    manifest: str
    used: int
    skipped: tuple[Skipped, ...]

    def write(self, path: str | Path) -> None:
        """As JSON, whole or not at all."""
        with cache.atomic(Path(path)) as file:
            file.write(json.dumps(asdict(self), indent=2, ensure_ascii=False).encode())

    def __str__(self) -> str:
        text = f"{self.manifest}: {self.used} clips used, {len(self.skipped)} skipped"
        shown = [f"  row {skip.row}: {skip.audio or '(no audio)'}: {skip.reason}" for skip in self.skipped[:5]]
        more = [f"  and {len(self.skipped) - 5} more"] if len(self.skipped) > 5 else []
        return "\n".join([text, *shown, *more])


def _rows(path: Path) -> Iterator[tuple[str, list[object], object, str]]:
    """(audio, captions, chain, error) of each row; error is empty if the row could be parsed."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        if path.suffix.lower() == ".csv":
            reader = csv.DictReader(file)
            names = reader.fieldnames or []
            columns = [name for name in names if name == "caption" or name.startswith("caption_")]
            if "audio" not in names or not columns + [name for name in names if name == "chain"]:
                raise ValueError(f"{path}: wanted columns `audio` and `caption` or `chain`, got {', '.join(names)}")
            for row in reader:
                chain = [part.strip() for part in (row.get("chain") or "").split("|")] if row.get("chain") else []
                yield row["audio"] or "", [row[name] for name in columns], chain, ""
            return
        for line in file:
            if line.strip():
                yield _json_row(line)


def _json_row(line: str) -> tuple[str, list[object], object, str]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        return "", [], [], f"no JSON ({error})"
    if not isinstance(row, dict) or not isinstance(row.get("audio"), str):
        return "", [], [], "wanted a JSON object with a string `audio`"
    captions = row.get("captions", [])
    captions = captions if isinstance(captions, list) else [captions]
    captions = captions + [row[name] for name in row if name == "caption" or name.startswith("caption_")]
    return row["audio"], captions, row.get("chain") or [], ""


def _entry(root: Path, row: tuple[str, list[object], object, str], shortest: float) -> Entry | str:
    """The usable row, or why it is not."""
    name, captions, chain, error = row
    if error or not name.strip():
        return error or "no audio given"
    texts = tuple(text.strip() for text in captions if isinstance(text, str) and text.strip())
    if not isinstance(chain, list) or not all(isinstance(text, str) and text.strip() for text in chain):
        return "chain must be a list of texts"
    if chain and len(chain) != LEVELS:
        return f"chain must have {LEVELS} texts, general to specific, got {len(chain)}"
    if not texts and not chain:
        return "no caption"
    path = root / Path(name.strip()).expanduser()
    try:
        header = audio.info(path)
        if header.samples <= 0:
            return "no samples"
        if header.seconds < shortest:
            return f"{header.seconds:.3f} s long, shorter than data.min_seconds = {shortest:g}"
        # a header alone may promise too much
        held = audio.read(path, header.sample_rate, seconds=max(shortest, 0.01)).numel()
        if held + 1 < shortest * header.sample_rate:
            return f"ends after {held} samples, before data.min_seconds = {shortest:g}"
    except audio.AudioError as problem:
        return str(problem).removeprefix(f"{path}: ")
    return Entry(path, texts, tuple(text.strip() for text in chain), header.seconds)


def read_manifest(
    path: str | Path, shortest: float = 0.0, progress: cache.Progress | None = None
) -> tuple[list[Entry], Report]:
    """The usable rows of a CSV or JSONL manifest, and a report on all of them.

    CSV: columns `audio`, one or more of `caption`, `caption_1`, ..., optional `chain` (four texts, general to
    specific, separated by |). JSONL: keys `audio`, `caption` or a list `captions`, optional list `chain`.
    `audio` is absolute or relative to the manifest. Files shorter than `shortest` seconds are skipped.
    Errors: FileNotFoundError, or ValueError if the suffix or columns are wrong, the text is not UTF-8, or no row is
    usable.
    """
    file = Path(path).expanduser()
    if file.suffix.lower() not in (".csv", ".jsonl"):
        raise ValueError(f"a manifest must end in .csv or .jsonl, got {file}")
    if not file.is_file():
        raise FileNotFoundError(f"no manifest at {file}")
    entries: list[Entry] = []
    skipped: list[Skipped] = []
    try:
        rows = list(_rows(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file} is not a {file.suffix} file in UTF-8 ({error})") from error
    with cache.reporter(progress) as tell:
        for number, row in enumerate(rows, 1):
            entry = _entry(file.parent, row, shortest)
            if isinstance(entry, Entry):
                entries.append(entry)
            else:
                skipped.append(Skipped(number, row[0], entry))
            if number % 100 == 0 or number == len(rows):
                tell(f"checking {file.name}", number, len(rows))
    report = Report(str(file), len(entries), tuple(skipped))
    if not entries:
        raise ValueError(f"no row of the manifest is usable; {report}")
    return entries, report


def text_node(level: int, text: str) -> int:
    """The semantic node of a chain's text: captions alike but for case and spaces share it."""
    words = f"{level}|{' '.join(text.lower().split())}"
    return int.from_bytes(hashlib.blake2b(words.encode(), digest_size=8).digest(), "little") >> 1


class ManifestData:
    """Clips of a manifest; log-mels are computed when asked for.

    Files longer than `config.seconds` are cropped: in training at a place drawn by (seed, epoch, index), else at the
    start. Captions are those of the row (level and node -1) and the texts of its chain with theirs.
    `report` tells which rows were skipped and why; the log has a summary.
    """

    def __init__(
        self,
        path: str,
        config: DataConfig,
        seed: int = 0,
        split: str = "train",
        progress: cache.Progress | None = None,
    ) -> None:
        self.name = f"{Path(path).name}"
        self.split = split
        self.seed = seed
        self.config = config
        self.entries, self.report = read_manifest(path, config.min_seconds, progress)
        if self.report.skipped:
            log.warning("%s", self.report)
        self.log_mel = LogMel(config)
        self.samples = round(config.seconds * config.sample_rate)
        self._texts: dict[int, str] | None = None

    def __len__(self) -> int:
        return len(self.entries)

    def waveform(self, i: int, epoch: int | None = None) -> Tensor:
        """[T] at config.sample_rate, at most config.seconds long; only the part needed is read.

        Errors: AudioError if the file has become unreadable since the manifest was checked.
        """
        entry, seconds = self.entries[i], self.config.seconds
        spare = max(0.0, entry.seconds - seconds)
        random = epoch is not None and self.split == "train" and spare > 0
        start = spare * numpy_generator(self.seed, "crop", epoch or 0, i).random() if random else 0.0
        try:
            sound = audio.read(entry.path, self.config.sample_rate, start, seconds)
        except audio.AudioError:
            if start == 0.0:
                raise
            log.warning("%s cannot be read from second %.1f on; its start is used", entry.path, start)
            sound = audio.read(entry.path, self.config.sample_rate, 0.0, seconds)
        return audio.pad(audio.crop(sound, self._length(i)), self._length(i))

    def _length(self, i: int) -> int:
        """Samples of clip i."""
        return max(1, min(self.samples, round(self.entries[i].seconds * self.config.sample_rate)))

    def features(self, i: int) -> Tensor:
        return self.log_mel(self.waveform(i))

    def features_batch(self, indices: Sequence[int] | np.ndarray, epoch: int | None = None) -> tuple[Tensor, Tensor]:
        """Zero-padded to config.seconds, so that every batch has the same shape."""
        mels = [self.log_mel(self.waveform(int(i), epoch)) for i in indices]
        out = torch.zeros(len(mels), self.log_mel.frames(self.samples), self.config.mels)
        for row, mel in enumerate(mels):
            out[row, : len(mel)] = mel
        return out, torch.tensor([len(mel) for mel in mels], dtype=torch.int64)

    def frames(self, i: int) -> int:
        return self.log_mel.frames(self._length(i))

    def captions(self, i: int) -> Sequence[Caption]:
        entry = self.entries[i]
        chained = [Caption(text, level, text_node(level, text)) for level, text in enumerate(entry.chain)]
        return [Caption(text, -1, -1) for text in entry.captions] + chained

    def evaluation_captions(self, i: int) -> Sequence[Caption]:
        """The row's own captions; the most specific text of the chain where there are none."""
        entry, found = self.entries[i], self.captions(i)
        return found[: len(entry.captions)] if entry.captions else found[-1:]

    def chain(self, i: int) -> tuple[int, ...]:
        return tuple(text_node(level, text) for level, text in enumerate(self.entries[i].chain))

    def unseen(self, i: int) -> bool:
        """False: a manifest does not say which sources sound."""
        return False

    def node_text(self, node: int) -> str:
        if self._texts is None:
            self._texts = {
                text_node(level, text): text for entry in self.entries for level, text in enumerate(entry.chain)
            }
        if node not in self._texts:
            raise KeyError(f"node {node} does not occur in {self.name}")
        return self._texts[node]
