"""How data sets lie on disks. A layout yields rows; everything after that is the same for all.

A data set is named `LAYOUT:PLACE`, `LAYOUT/SUBSET:PLACE` for a subset other than the split's own, or by the path of a
manifest alone. A new layout is one file and one line in LAYOUTS.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from prolap.data.files.entries import Row
from prolap.data.files.layouts import aac, audiocaps, clotho, folder, manifest, wds

__all__ = ["LAYOUTS", "Layout", "Place", "parse"]


class Layout(NamedTuple):
    """A way to lay out a data set."""

    rows: Callable[[str, str], Iterable[Row]]
    """(place, split: train, dev, test or the layout's own name) -> the clips."""
    own_splits: Callable[[str], bool]
    """Whether the place holds dev and test beside train, so that naming it once is enough."""
    form: str
    """How to name a place."""


LAYOUTS: dict[str, Layout] = {
    "aac": Layout(aac.rows, aac.own_splits, "aac:NAME:FOLDER"),
    "audiocaps": Layout(audiocaps.rows, audiocaps.own_splits, "audiocaps:FOLDER"),
    "clotho": Layout(clotho.rows, clotho.own_splits, "clotho:FOLDER"),
    "folder": Layout(folder.rows, folder.own_splits, "folder:FOLDER"),
    "manifest": Layout(manifest.rows, manifest.own_splits, "FILE.csv or FILE.jsonl"),
    "wds": Layout(wds.rows, wds.own_splits, "wds:PATTERN"),
}


class Place(NamedTuple):
    """A data set as it was named."""

    layout: str
    where: str
    subset: str = ""

    @property
    def own_splits(self) -> bool:
        """Whether it knows dev and test by itself."""
        return not self.subset and LAYOUTS[self.layout].own_splits(self.where)

    def rows(self, split: str) -> list[Row]:
        """The clips of a split, unchecked; errors as the layout's."""
        return list(LAYOUTS[self.layout].rows(self.where, self.subset or split))

    def name(self, split: str) -> str:
        """For reports and tables."""
        if self.layout == "manifest":
            return Path(self.where).name
        place = self.where.partition(":")[0] if self.layout == "aac" else Path(self.where).name
        return f"{self.layout}:{place}/{self.subset or split}"


def parse(text: str) -> Place:
    """`LAYOUT:PLACE`, `LAYOUT/SUBSET:PLACE` or the path of a manifest.

    Errors: ValueError for a layout that does not exist.
    """
    head, colon, where = text.strip().partition(":")
    layout, _, subset = head.partition("/")
    if colon and layout in LAYOUTS and where:
        return Place(layout, where, subset)
    if (colon and re.fullmatch(r"\w{2,}", layout)) or head in LAYOUTS:
        close = difflib.get_close_matches(layout, LAYOUTS, n=1)
        meant = f"; did you mean {LAYOUTS[close[0]].form}?" if close else ""
        forms = ", ".join(layout.form for layout in LAYOUTS.values())
        raise ValueError(f"data: got {text!r}, want scenes, {forms}{meant}")
    return Place("manifest", text.strip())
