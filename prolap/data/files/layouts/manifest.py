"""A CSV or JSONL file that names sounds and their captions."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prolap.data.files.entries import Row
from prolap.data.files.layouts.base import Layout, fields_of, json_object, register, video_of_fields, video_of_name


@register
class Manifest(Layout):
    name, form = "manifest", "FILE.csv or FILE.jsonl"

    def rows(self, path: str, split: str) -> Iterator[Row]:
        """One row a line; the same whatever the split.

        CSV: columns `audio`, one or more of `caption`, `caption_1`, ..., optional `chain` (four texts, general to
        specific, separated by |). JSONL: keys `audio`, `caption` or a list `captions`, optional list `chain`.
        `audio` is absolute or relative to the manifest. `youtube_id` and `start_time`, if there, serve the overlap check.
        Errors: FileNotFoundError, or ValueError if the suffix or columns are wrong or the text is not UTF-8.
        """
        manifest = Path(path).expanduser()
        if manifest.suffix.lower() not in (".csv", ".jsonl"):
            raise ValueError(f"a manifest must end in .csv or .jsonl, got {manifest}")
        if not manifest.is_file():
            raise FileNotFoundError(f"no manifest {manifest.name} in {manifest.absolute().parent}")
        try:
            with manifest.open(encoding="utf-8-sig", newline="") as file:
                if manifest.suffix.lower() == ".csv":
                    yield from _csv_rows(manifest, csv.DictReader(file))
                else:
                    yield from (_json_row(str(manifest.parent), line) for line in file if line.strip())
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{manifest} is not a {manifest.suffix} file in UTF-8 ({error})") from error

    def own_splits(self, path: str) -> bool:
        """False: a manifest is one split."""
        return False

    def title(self, path: str, split: str) -> str:
        """The file's name."""
        return Path(path).name

    def source(self, path: str, split: str) -> str:
        """The file's path."""
        return str(Path(path).expanduser())


def _csv_rows(path: Path, reader: csv.DictReader[str]) -> Iterator[Row]:
    names = reader.fieldnames or []
    columns = [name for name in names if name == "caption" or name.startswith("caption_")]
    if "audio" not in names or not columns + [name for name in names if name == "chain"]:
        raise ValueError(f"{path}: wanted columns `audio` and `caption` or `chain`, got {', '.join(names)}")
    folder = str(path.parent)
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:  # a field of more than 128 KiB
            yield Row("", None, error=f"no CSV ({error})")
            continue
        # general texts repeat: one object for all
        chain = [sys.intern(part.strip()) for part in (row.get("chain") or "").split("|")] if row.get("chain") else []
        fields = {"captions": [row[name] for name in columns], "chain": chain, "video": video_of_fields(row)}
        yield _row(folder, row["audio"] or "", fields)


def _json_row(folder: str, line: str) -> Row:
    row, error = json_object(line)
    if error.startswith("no JSON"):
        return Row("", None, error=error)
    if not isinstance(row.get("audio"), str):
        return Row("", None, error="wanted a JSON object with a string `audio`")
    return _row(folder, row["audio"], fields_of(row))


def _row(folder: str, audio: str, fields: dict[str, Any]) -> Row:
    if not audio.strip():
        return Row(audio, None, error="no audio given")
    sound = os.path.join(folder, os.path.expanduser(audio.strip()))
    fields["video"] = fields["video"] or video_of_name(os.path.splitext(os.path.basename(sound))[0])
    return Row(audio, sound, **fields)
