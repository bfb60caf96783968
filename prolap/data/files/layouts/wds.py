"""Tar shards as WebDataset writes them: members that share a name up to the first dot are one clip.

Shards are read in place and at random: the table of members is made when the data set is opened (one header every member,
not the sounds), so clip i is found at once, and the order of training is ours alone, a function of (seed, step), exact
after an interruption. Nothing is unpacked; compressed archives, which can only be read from their start, are refused.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path

from prolap.data.audio import SUFFIXES
from prolap.data.files.entries import Row
from prolap.data.files.layouts.base import Layout, fields_of, json_object, names_of, register, video_of_name
from prolap.data.files.tar import Member, members
from prolap.utils.environment import optional

SPLIT = "{split}"


def shards(path: str, split: str) -> list[Path]:
    """The files that a pattern names: braces as in a shell, `*` and `?`, and `{split}` for the usual names of a split.

    Errors: FileNotFoundError if there are none, or one that the braces name is missing.
    """
    names = names_of(split) if SPLIT in path else ("",)
    for name in names:
        if files := _expanded(str(Path(path.replace(SPLIT, name)).expanduser())):
            return files
    raise FileNotFoundError(f"wds: no shards at {path}" + (f" for the split {split}" if SPLIT in path else ""))


def _expanded(pattern: str) -> list[Path]:
    texts = [pattern]
    if "{" in pattern:
        braceexpand = optional("braceexpand", "braces in a wds: pattern need braceexpand", "webdataset")
        texts = list(braceexpand.braceexpand(pattern))
    files = [[Path(path) for path in sorted(glob.glob(text))] for text in texts]
    if any(files) and not all(files):
        raise FileNotFoundError(f"wds: no shard at {texts[files.index([])]}")
    return [path for paths in files for path in paths]


@register
class WebDataset(Layout):
    name, form = "wds", "wds:PATTERN"

    def rows(self, path: str, split: str) -> Iterator[Row]:
        """One row for each sound in the shards, in their order; captions from its .json (as in a JSONL manifest) or .txt.

        Errors: FileNotFoundError for shards that are not there; ValueError for compressed or damaged ones.
        """
        for shard in shards(path, split):
            clips: dict[str, dict[str, Member]] = {}
            for member in members(shard):
                folder, slash, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                clips.setdefault(folder + slash + stem, {})[f".{suffix.lower()}"] = member
            for key, parts in clips.items():
                yield _row(f"{shard.name}/{key}", key, parts)

    def own_splits(self, path: str) -> bool:
        """Whether the pattern has a place for the split."""
        return SPLIT in path


def _row(name: str, key: str, parts: dict[str, Member]) -> Row:
    sound = next((parts[suffix] for suffix in SUFFIXES if suffix in parts), None)
    if sound is None:
        return Row(name, None, error=f"no sound among {', '.join(sorted(parts))}")
    video = video_of_name(key.rpartition("/")[2])
    if ".json" in parts:
        with parts[".json"].open() as file:
            row, error = json_object(file.read())
        fields = fields_of(row)
        if fields["captions"] or fields["chain"] or error or ".txt" not in parts:
            return Row(name, sound, **(fields | {"video": fields["video"] or video}), error=error)
        video = fields["video"] or video
    if ".txt" not in parts:
        return Row(name, sound, error="neither .json nor .txt beside it")
    with parts[".txt"].open() as file:
        try:
            return Row(name, sound, file.read().decode("utf-8-sig").splitlines(), video=video)
        except UnicodeDecodeError:
            return Row(name, sound, error=f"{key}.txt is not UTF-8")
