"""Sounds and captions: the embedded scenes, data sets in the layouts that people have, and the loader."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from prolap.config import BaseConfig
from prolap.data.dataset import AudioTextData, Caption, Split, check_size
from prolap.data.files.layouts import Part
from prolap.data.files.overlap import Sound, common, report
from prolap.data.files.recordings import RecordingData
from prolap.data.union import WeightedUnion, parse
from prolap.data.union import absolute as absolute_spec
from prolap.utils.progress import Progress

__all__ = ["AudioTextData", "Caption", "absolute", "open_data", "parse", "parts_of"]

log = logging.getLogger(__name__)
Config = TypeVar("Config", bound=BaseConfig)
SPLITS: tuple[Split, ...] = ("train", "dev", "test")


def open_data(
    config: BaseConfig, split: Split, progress: Progress | None = None, batches: bool = False
) -> AudioTextData:
    """The data of a split: what `config.data` names for it, or the split of that name of what it names for training.

    Opening `train` also looks whether its sounds occur in dev or test (`config.data.overlap`), unless it overfits.
    batches: data of less than a batch are refused, before sounds are hashed.
    progress(what, done, total) is told about rendering and checking; None shows a bar in the terminal.
    Errors: ValueError for an unknown split, one without data, sounds in two splits, or less than a batch;
    FileNotFoundError.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be train, dev or test, got {split!r}")
    training = parse(config.data.train)
    parts = parts_of(config, split, training)
    opened = [part.open(split, config.data, config.seed, progress) for part in parts]
    weights = [part.weight for part in parts]
    data = opened[0] if weights == [1.0] else WeightedUnion(opened, weights)
    if batches:
        check_size(data, config)
    if split == "train" and not config.overfit:
        _check_overlap(config, training, data)
    return data


def absolute(config: Config) -> Config:
    """The configuration with absolute paths of data, caches and `init`, so that it means the same in any folder.

    Errors: ValueError for data that cannot be parsed.
    """
    data = config.data
    changes: dict[str, Any] = {
        split: absolute_spec(text) for split in SPLITS if (text := getattr(data, split)) is not None
    }
    changes |= {name: _absolute(path) for name in ("soundfont", "cache") if (path := getattr(data, name)) is not None}
    here = config.init is not None and Path(config.init).expanduser().exists()
    init = _absolute(config.init) if here and config.init else config.init
    tokenizer = _absolute(config.model.tokenizer) if config.model.tokenizer else None
    model = replace(config.model, tokenizer=tokenizer)
    return replace(config, data=replace(data, **changes), init=init, model=model)


def _absolute(path: str) -> str:
    return os.path.abspath(Path(path).expanduser())


def parts_of(config: BaseConfig, split: Split, training: Sequence[Part]) -> Sequence[Part]:
    """What the data of a split are made of: what its own option names, or `training` where this knows the split by itself.

    Errors: ValueError if neither does.
    """
    own: str | None = getattr(config.data, split)
    if split == "train":
        return training
    if own is not None:
        return parse(own)
    if len(training) > 1:
        raise ValueError(f"data.{split}: name a data set, since data.train is a union of several")
    if training[0].own_splits:
        return training
    hint = "; `prolap evaluate` takes one as --data, or dev by --split dev" if split == "test" else ""
    raise ValueError(f"data.{split}: got none, and data.train has no such split; name a data set{hint}.")


def _check_overlap(config: BaseConfig, training: Sequence[Part], data: AudioTextData) -> None:
    """Look for sounds of the training data in dev and test, as far as there are any; nothing is decoded."""
    mode = config.data.overlap
    opened = data.parts if isinstance(data, WeightedUnion) else [data]
    sounds = [Sound(e.path, e.video) for part in opened if isinstance(part, RecordingData) for e in part.entries]
    if mode == "ignore" or not sounds:
        return
    for split in SPLITS[1:]:
        try:
            rows = [row for part in parts_of(config, split, training) for row in part.rows(split)]
        except (ValueError, OSError, ImportError) as error:
            if getattr(config.data, split) is not None:  # else there simply is no such split
                log.warning("data.%s cannot be read, so training was not compared with it: %s", split, error)
            continue
        others = [Sound(row.source, row.video) for row in rows if row.source is not None and not row.error]
        report(data.name, split, common(sounds, others, config.data.cache), mode)
