"""AudioCaps: train.csv, val.csv, test.csv, and sounds that were fetched one by one from videos that keep vanishing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prolap.data.files.entries import Row
from prolap.data.files.layouts.base import Layout, existing_folder, read_table, register, sounds_in, video_id

SPLITS = {"train": "train", "dev": "val", "test": "test"}
COLUMNS = ("youtube_id", "start_time", "caption")  # and audiocap_id, which nothing here needs
_TABLES = ("", "dataset", "csv_files_v1", "csv_files_v2")
SECONDS = 10


def file_names(youtube_id: str, start: str) -> list[str]:
    """Names, without suffix, that the sound of a clip is known to have, from the most to the least telling."""
    names = [f"{youtube_id}_{start}", f"Y{youtube_id}_{start}"]
    try:
        first = float(start)
    except ValueError:
        return [*names, f"Y{youtube_id}", youtube_id]
    last = first + SECONDS
    spans = [f"{first:g}", f"{first:g}_{last:g}", f"{first * 1000:.0f}_{last * 1000:.0f}", f"{first:.3f}_{last:.3f}"]
    names += [f"{prefix}{youtube_id}_{span}" for span in spans for prefix in ("", "Y")]
    return [*dict.fromkeys(names), f"Y{youtube_id}", youtube_id]


@register
class AudioCaps(Layout):
    name, form = "audiocaps", "audiocaps:FOLDER"

    def rows(self, path: str, split: str) -> Iterator[Row]:
        """One row for each (video, start); several lines about it are its captions (five in val and test).

        The table is `<split>.csv` in the folder or in its `dataset`; sounds lie in `<split>`, `audio/<split>`,
        `<split>/audio`, `audio`, or beside the table, named as `file_names` says. A clip without a file has no source.
        Errors: FileNotFoundError if folder or table are missing; ValueError if columns are.
        """
        folder = existing_folder(path, "audiocaps")
        name = SPLITS.get(split, split)
        tables = [folder / part / f"{name}.csv" for part in _TABLES]
        table = next((file for file in tables if file.is_file()), None)
        if table is None:
            raise FileNotFoundError(f"audiocaps: no {name}.csv in {folder}")
        folders = [folder / part for part in (name, f"audio/{name}", f"{name}/audio", "audio")]
        sounds = sounds_in([*folders, table.parent, folder, *sorted(folder.glob(f"audio_*Hz/{name}"))])
        captions: dict[tuple[str, str], list[object]] = {}
        starts: dict[str, set[str]] = {}
        for line in read_table(table, COLUMNS):
            key = (line["youtube_id"] or "").strip(), (line["start_time"] or "").strip()
            captions.setdefault(key, []).append(line["caption"])
            starts.setdefault(key[0], set()).add(key[1])
        for (youtube_id, start), texts in captions.items():
            yield _row(youtube_id, start, texts, sounds, len(starts[youtube_id]) == 1)


def _row(youtube_id: str, start: str, texts: list[object], sounds: dict[str, Path], only: bool) -> Row:
    names = file_names(youtube_id, start)
    stem = next((name for name in names if name in sounds), None)
    error = "" if youtube_id else "no youtube_id"
    if stem in (youtube_id, f"Y{youtube_id}") and not only:
        error = f"{stem} does not say which of the starts in the table it is; want {names[0]}"
    try:
        video = video_id(youtube_id, float(start))
    except ValueError:
        video = youtube_id
    return Row(f"{youtube_id}_{start}", sounds[stem] if stem else None, texts, video=video, error=error)
