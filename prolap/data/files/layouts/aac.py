"""What the package aac-datasets has laid out on the disk: it says which files and captions there are, we read them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from prolap.data.files.entries import Row
from prolap.data.files.layouts.base import Layout, existing_folder, register, video_id, video_of_name

SPLITS: dict[str, dict[str, str]] = {
    "AudioCaps": {"train": "train", "dev": "val", "test": "test"},
    "Clotho": {"train": "dev", "dev": "val", "test": "eval"},
    "MACS": {"train": "full"},
    "WavCaps": {},
}
"""Class of aac_datasets -> our splits -> its subsets; any other subset is asked for as `aac/SUBSET:NAME:FOLDER`."""


@register
class AacDatasets(Layout):
    name, form = "aac", "aac:NAME:FOLDER"

    def absolute(self, path: str) -> str:
        """NAME as it is, FOLDER as it is named from any folder."""
        name, colon, root = path.partition(":")
        return name + colon + (super().absolute(root) if root else "")

    def rows(self, path: str, split: str) -> Iterator[Row]:
        """One row a clip of aac_datasets' NAME in its `root` FOLDER; path is `NAME:FOLDER`. Nothing is downloaded.

        Errors: ValueError for an unknown NAME or subset, or data that the package does not find; ModuleNotFoundError without
        the package.
        """
        name, root = _parts(path)
        known = SPLITS[name]
        if split in ("train", "dev", "test") and split not in known:
            raise ValueError(f"aac: {name} has no {split} split; ask for one of its subsets, as in aac/SUBSET:{path}")
        folder = existing_folder(root, "aac")
        package = _package()
        try:
            clips = getattr(package, name)(root=str(folder), subset=known.get(split, split), download=False, verbose=0)
        except (RuntimeError, ValueError, OSError) as error:
            raise ValueError(f"aac: {name} cannot be read from {folder} ({' '.join(str(error).split())})") from error
        yield from _rows(clips)

    def own_splits(self, path: str) -> bool:
        """Whether the data set has splits of its own."""
        return "dev" in SPLITS[_parts(path)[0]]

    def title(self, path: str, split: str) -> str:
        """With the name of the data set instead of its folder's."""
        return f"{self.name}:{path.partition(':')[0]}/{split}"


def _package() -> ModuleType:
    """aac_datasets, imported although its 0.7.0 asks torchaudio for a class that 2.11 no longer has.

    It wants AudioMetaData for a type annotation and where it decodes; nothing here makes it decode. So a class of that name
    stands in while it is imported.
    """
    import torchaudio

    lacking = not hasattr(torchaudio, "AudioMetaData")
    if lacking:
        torchaudio.AudioMetaData = type("AudioMetaData", (), {})
    try:
        return importlib.import_module("aac_datasets")
    except ModuleNotFoundError as error:
        if error.name != "aac_datasets":
            raise ImportError(f"aac: aac-datasets does not work here ({error})") from error
        raise ModuleNotFoundError("aac: needs the package aac-datasets: pip install prolap[aac]") from error
    finally:
        if lacking:
            del torchaudio.AudioMetaData


def _rows(clips: Any) -> Iterator[Row]:
    """The columns alone: asking for `audio` would decode."""
    paths, captions = clips[:, "fpath"], clips[:, "captions"]
    videos = [""] * len(paths)
    if {"youtube_id", "start_time"} <= set(clips.column_names):
        videos = [video_id(*each) for each in zip(clips[:, "youtube_id"], clips[:, "start_time"], strict=True)]
    for path, texts, video in zip(map(Path, paths), captions, videos, strict=True):
        texts = [texts] if isinstance(texts, str) else list(texts)
        yield Row(path.name, path if path.is_file() else None, texts, video=video or video_of_name(path.stem))


def _parts(path: str) -> tuple[str, str]:
    name, _, root = path.partition(":")
    names = {known.lower(): known for known in SPLITS}
    if name.lower() not in names or not root:
        raise ValueError(f"aac: got {path!r}, want NAME:FOLDER with NAME one of {', '.join(SPLITS)}")
    return names[name.lower()], root
