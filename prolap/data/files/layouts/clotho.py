"""Clotho: clotho_captions_<split>.csv with five captions a file, and the sounds in folders of the splits' names."""

from __future__ import annotations

import re
from collections.abc import Iterator

from prolap.data.files.entries import Row
from prolap.data.files.layouts.fields import existing_folder, read_table

SPLITS = {"train": "development", "dev": "validation", "test": "evaluation"}
CAPTIONS = tuple(f"caption_{number}" for number in range(1, 6))


def _loose(name: str) -> str:
    """Some archivers replace characters of file names: a colon or spaces by underscores."""
    return re.sub(r"[\s:_/\\]+", "_", name.strip()).lower()


def rows(where: str, split: str) -> Iterator[Row]:
    """One row a file, with its five captions.

    The table lies in the folder or in `clotho_csv_files`; the sounds in `<split>`, `clotho_audio_<split>` (or
    `clotho_audio_<split>/<split>`) or `clotho_audio_files/<split>`.
    Errors: FileNotFoundError if folder, table or sounds are missing; ValueError if columns are.
    """
    folder = existing_folder(where, "clotho")
    name = SPLITS.get(split, split)
    tables = [folder / part / f"clotho_captions_{name}.csv" for part in ("", "clotho_csv_files")]
    table = next((path for path in tables if path.is_file()), None)
    if table is None:
        raise FileNotFoundError(f"clotho: no clotho_captions_{name}.csv in {folder}")
    outer = f"clotho_audio_{name}"
    places = [folder / part for part in (name, f"{outer}/{name}", outer, f"clotho_audio_files/{name}")]
    place = next((path for path in places if path.is_dir()), None)
    if place is None:
        raise FileNotFoundError(f"clotho: no folder {name} or {outer} with sounds in {folder}")
    files = {path.name: path for path in place.iterdir()}
    loose = {_loose(key): path for key, path in files.items()}
    for line in read_table(table, ("file_name", *CAPTIONS)):
        sound = line["file_name"] or ""
        source = files.get(sound) or loose.get(_loose(sound))
        yield Row(sound, source, [line[key] for key in CAPTIONS], error="" if sound.strip() else "no file_name")


def own_splits(where: str) -> bool:
    """True: development, validation and evaluation lie in one folder."""
    return True
