"""A folder of sounds with their captions beside: door.wav and door.txt or door.json."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prolap.data.audio import SUFFIXES
from prolap.data.files.entries import Row
from prolap.data.files.layouts.base import (
    Layout,
    existing_folder,
    fields_of,
    json_object,
    names_of,
    register,
    video_of_name,
)


@register
class Folder(Layout):
    name, form = "folder", "folder:FOLDER"

    def rows(self, path: str, split: str) -> Iterator[Row]:
        """One row for each sound in the folder and the folders in it, in the order of their paths.

        A .txt file has a caption in each line; a .json file is an object as in a JSONL manifest, without `audio`. Where the
        folder has one called train, the split is looked for under its usual names (train; dev, val, valid, validation;
        test, eval, evaluation); else the split is the whole folder.
        Errors: FileNotFoundError for a missing folder or split.
        """
        folder = existing_folder(path, "folder")
        if self.own_splits(path):
            inner = next((folder / name for name in names_of(split) if (folder / name).is_dir()), None)
            if inner is None:
                raise FileNotFoundError(f"folder: no folder called {' or '.join(names_of(split))} in {folder}")
            folder = inner
        for sound in sorted(folder.rglob("*")):
            if sound.suffix.lower() in SUFFIXES and sound.is_file():
                yield _row(sound, str(sound.relative_to(folder)))

    def own_splits(self, path: str) -> bool:
        """Whether the folder has one for training in it."""
        return any((Path(path).expanduser() / name).is_dir() for name in names_of("train"))


def _row(path: Path, name: str) -> Row:
    video = video_of_name(path.name[: -len(path.suffix)])
    beside = path.with_suffix(".json")
    try:
        if beside.is_file():
            row, error = json_object(beside.read_bytes())
            fields = fields_of(row)
            return Row(name, path, **(fields | {"video": fields["video"] or video}), error=error)
        beside = path.with_suffix(".txt")
        if not beside.is_file():  # missing, or a pipe that would wait for ever
            raise FileNotFoundError
        return Row(name, path, beside.read_text(encoding="utf-8-sig").splitlines(), video=video)
    except FileNotFoundError:
        return Row(name, path, error=f"no {beside.name} or {path.with_suffix('.json').name} beside it")
    except UnicodeDecodeError:
        return Row(name, path, error=f"{beside.name} is not UTF-8")
