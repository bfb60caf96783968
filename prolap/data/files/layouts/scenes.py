"""The embedded scenes: nothing lies on the disk but a cache; they are made of a soundfont."""

from __future__ import annotations

from prolap.config import DataConfig
from prolap.data.dataset import AudioTextData, Split
from prolap.data.files.entries import Row
from prolap.data.files.layouts.base import Layout, Part, register
from prolap.data.scenes.clips import SceneData
from prolap.utils.progress import Progress


@register
class Scenes(Layout):
    name, form, recorded = "scenes", "scenes", False

    def title(self, path: str, split: str) -> str:
        """The split alone: there is one data set of scenes."""
        return f"{self.name}/{split}"

    def rows(self, path: str, split: str) -> list[Row]:
        """None: there are no files."""
        return []

    def open(
        self, part: Part, split: Split, config: DataConfig, seed: int, progress: Progress | None = None
    ) -> AudioTextData:
        """Clips made for the split; scenes have a seed of their own, `data.seed`."""
        return SceneData(config, split, progress)
