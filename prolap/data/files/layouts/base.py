"""What a layout is, the registry of layouts, and what they share: captions out of JSON and text, sounds by name, YouTube ids."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from prolap.config import DataConfig
from prolap.data.audio import SUFFIXES
from prolap.data.dataset import AudioTextData, Split
from prolap.data.files.entries import Row
from prolap.data.files.recordings import RecordingData
from prolap.utils.progress import Progress
from prolap.utils.registry import Registry

SPLIT_NAMES = {
    "train": ("train", "training", "development"),
    "dev": ("dev", "val", "valid", "validation"),
    "test": ("test", "eval", "evaluation"),
}
"""How folders and archives call our splits, the most usual name first."""
# an id is random letters of both cases, digits, - and _; names that people give to files rarely look like that
_ID = r"(?=.[^A-Z]*[A-Z])(?=[^a-z]*[a-z])[\w-]{11}"
_VIDEO = re.compile(
    rf"(?:Y(?P<alone>{_ID})|Y?(?P<id>{_ID})_(?P<start>\d+(?:\.\d+)?)(?P<end>_\d+(?:\.\d+)?)?)", re.ASCII
)


class Layout:
    """A way in which data sets lie on disks. It yields rows; everything after that is the same for all layouts.

    path: what stands behind the colon of LAYOUT:PATH. split: train, dev, test or the name that the layout has for a subset.
    """

    name: ClassVar[str]
    form: ClassVar[str]
    """How to name a data set of this layout, for help and messages; the name alone where there is no path."""
    recorded: ClassVar[bool] = True
    """Whether the sounds lie in files, which can be checked and compared."""

    def rows(self, path: str, split: str) -> Iterable[Row]:
        """The clips of a split, not yet checked. Errors: FileNotFoundError, ValueError."""
        raise NotImplementedError

    def own_splits(self, path: str) -> bool:
        """Whether dev and test lie there beside train, so that naming the data set once is enough."""
        return True

    def absolute(self, path: str) -> str:
        """The path as it is named from any folder; a layout whose path is none, or only part of one, says so here."""
        return os.path.abspath(Path(path).expanduser())

    def title(self, path: str, split: str) -> str:
        """The name of a split in reports and tables."""
        return f"{self.name}:{Path(path).name}/{split}"

    def source(self, path: str, split: str) -> str:
        """What a report of unusable rows is about."""
        return self.title(path, split)

    def open(
        self, part: Part, split: Split, config: DataConfig, seed: int, progress: Progress | None = None
    ) -> AudioTextData:
        """The data of a split: recordings, unless the layout has other ones. Errors: ValueError if no row is usable."""
        source = self.source(part.path, part.subset or split)
        return RecordingData(part.rows(split), part.name(split), config, seed, split, source, progress)


@dataclass(frozen=True)
class Part:
    """A data set as it was named: LAYOUT:PATH, LAYOUT/SUBSET:PATH or the path of a manifest; part of a weighted union."""

    layout: Layout
    path: str
    subset: str = ""
    """What is read instead of the split's own rows."""
    weight: float = 1.0
    """How often a clip of it is drawn, compared with one of weight 1."""

    @property
    def own_splits(self) -> bool:
        """Whether it knows dev and test by itself."""
        return not self.subset and self.layout.own_splits(self.path)

    def name(self, split: str) -> str:
        """For reports and tables."""
        return self.layout.title(self.path, self.subset or split)

    def rows(self, split: str) -> list[Row]:
        """The clips of a split, not yet checked; errors as the layout's."""
        return list(self.layout.rows(self.path, self.subset or split))

    def open(self, split: Split, config: DataConfig, seed: int = 0, progress: Progress | None = None) -> AudioTextData:
        """The data of a split; errors as the layout's."""
        return self.layout.open(self, split, config, seed, progress)


LAYOUTS: Registry[Layout] = Registry("data", lambda layout: layout())
register = LAYOUTS.register


def names_of(split: str) -> tuple[str, ...]:
    """The names under which a split may lie; a name that is none of ours is itself."""
    return SPLIT_NAMES.get(split, (split,))


def existing_folder(path: str, layout: str) -> Path:
    """The folder; FileNotFoundError if there is none."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"{layout}: no folder at {folder.absolute()}")
    return folder


def json_object(text: str | bytes) -> tuple[dict[str, Any], str]:
    """A JSON object, or an empty one and what is wrong with the text."""
    try:
        row = json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        return {}, f"no JSON ({error})"
    return (row, "") if isinstance(row, dict) else ({}, "wanted a JSON object")


def fields_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """`captions`, `chain` and `video` of a Row; captions are under `captions`, `caption`, `caption_...` and `text`."""
    captions: list[object] = []
    for key in ("captions", *(key for key in row if key in ("caption", "text") or key.startswith("caption_"))):
        value = row.get(key, [])
        captions += value if isinstance(value, list) else [value]
    return {"captions": captions, "chain": row.get("chain") or [], "video": video_of_fields(row)}


def read_table(path: Path, columns: Iterable[str]) -> list[dict[str, str]]:
    """The rows of a CSV file with a header.

    Errors: ValueError if a column is missing or the text is not UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            names = reader.fieldnames or []
            if lacking := [name for name in columns if name not in names]:
                raise ValueError(f"{path}: wanted columns {', '.join(lacking)}, got {', '.join(names)}")
            return list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a .csv file in UTF-8 ({error})") from error


def sounds_in(folders: Iterable[Path]) -> dict[str, Path]:
    """Name without suffix -> sound file in one of the folders; earlier folders win, and wav over flac over the others."""
    sounds: dict[str, Path] = {}
    for folder in folders:
        if folder.is_dir():
            files = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES]
            for path in sorted(files, key=lambda path: SUFFIXES.index(path.suffix.lower())):
                sounds.setdefault(path.name[: -len(path.suffix)], path)
    return sounds


def video_id(youtube_id: str, start: float | None) -> str:
    """`id`, or `id@start` with the start in seconds."""
    return youtube_id if start is None or not youtube_id else f"{youtube_id}@{start:g}"


def video_of_fields(row: Mapping[str, Any]) -> str:
    """The video that keys such as `youtube_id` and `start_time` name; empty if there is none."""
    name = row.get("youtube_id") or row.get("ytid") or row.get("YTID")
    if not isinstance(name, str):
        return ""
    start = next((row[key] for key in ("start_time", "start_seconds", "start") if row.get(key) is not None), None)
    try:
        return video_id(name, None if start is None else float(start))
    except (TypeError, ValueError):
        return name


def video_of_name(stem: str) -> str:
    """The video that a file name says: `Y<id>`, `<id>_<seconds>`, `<id>_<seconds>_<seconds>` or the like in milliseconds."""
    match = _VIDEO.fullmatch(stem)
    if match is None:
        return ""
    if match["alone"]:
        return match["alone"]
    start = float(match["start"])
    return video_id(match["id"], start / 1000 if match["end"] and float(match["end"][1:]) - start >= 1000 else start)
