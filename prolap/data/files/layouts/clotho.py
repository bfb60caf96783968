"""Clotho: clotho_captions_<split>.csv with five captions a file, and the sounds in folders of the splits' names."""

from __future__ import annotations

import re
from collections.abc import Iterator

from prolap.data.files.entries import Row
from prolap.data.files.layouts.base import Layout, existing_folder, read_table, register

SPLITS = {"train": "development", "dev": "validation", "test": "evaluation"}
CAPTIONS = tuple(f"caption_{number}" for number in range(1, 6))


def _loose(name: str) -> str:
    """Some archivers replace characters of file names: a colon or spaces by underscores."""
    return re.sub(r"[\s:_/\\]+", "_", name.strip()).lower()


@register
class Clotho(Layout):
    name, form = "clotho", "clotho:FOLDER"

    def rows(self, path: str, split: str) -> Iterator[Row]:
        """One row a file, with its five captions.

        The table lies in the folder or in `clotho_csv_files`; the sounds in `<split>`, `clotho_audio_<split>` (or
        `clotho_audio_<split>/<split>`) or `clotho_audio_files/<split>`.
        Errors: FileNotFoundError if folder, table or sounds are missing; ValueError if columns are.
        """
        folder = existing_folder(path, "clotho")
        name = SPLITS.get(split, split)
        tables = [folder / part / f"clotho_captions_{name}.csv" for part in ("", "clotho_csv_files")]
        table = next((file for file in tables if file.is_file()), None)
        if table is None:
            raise FileNotFoundError(f"clotho: no clotho_captions_{name}.csv in {folder}")
        outer = f"clotho_audio_{name}"
        folders = [folder / part for part in (name, f"{outer}/{name}", outer, f"clotho_audio_files/{name}")]
        sounds = next((inner for inner in folders if inner.is_dir()), None)
        if sounds is None:
            raise FileNotFoundError(f"clotho: no folder {name} or {outer} with sounds in {folder}")
        files = {file.name: file for file in sounds.iterdir()}
        loose = {_loose(key): file for key, file in files.items()}
        for line in read_table(table, ("file_name", *CAPTIONS)):
            name = line["file_name"] or ""
            source = files.get(name) or loose.get(_loose(name))
            yield Row(name, source, [line[key] for key in CAPTIONS], error="" if name.strip() else "no file_name")
