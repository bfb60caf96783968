"""Sounds and captions: the embedded scenes, manifests of real files, and the loader."""

from __future__ import annotations

from typing import Literal

from prolap.config import Config
from prolap.data.cache import Progress
from prolap.data.dataset import AudioTextData, Caption

__all__ = ["AudioTextData", "Caption", "open_data"]


def open_data(
    config: Config, split: Literal["train", "dev", "test"], progress: Progress | None = None
) -> AudioTextData:
    """The data of a split: the embedded scenes, or the manifest that `config.data` names.

    progress(what, done, total) is told about rendering; None shows a bar in the terminal.
    Errors: ValueError for an unknown split or one without a manifest.
    """
    if split not in ("train", "dev", "test"):
        raise ValueError(f"split must be train, dev or test, got {split!r}")
    where = getattr(config.data, split)
    if where == "scenes" or (where is None and config.data.train == "scenes"):
        from prolap.data.scenes import SceneData

        return SceneData(config.data, split, progress)
    if where is None:
        raise ValueError(f"data.{split}: name a manifest (.csv or .jsonl), since data.train is not `scenes`")
    from prolap.data.manifest import ManifestData

    return ManifestData(where, config.data, config.seed, split, progress)
